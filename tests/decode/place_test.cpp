// What a place leaves to caches when its memory is limited.
#include "decode/place.hpp"

#include <gtest/gtest.h>

#include "../model/shapes.hpp"

namespace photon {
namespace {

TEST(Place, ALimitBoundsTheCachesOfTheHost) {
  Place place("cpu", "auto", Numerics::tuned);
  const ModelConfig config = testing::all_shapes()[0].config;
  const std::int64_t free = cache_memory(place, config, false).bytes;
  ASSERT_GT(free, 0);
  const std::int64_t used = place.used_bytes();
  EXPECT_GT(used, 1 << 20);
  // Other tests' memory comes and goes, so nothing is exact here: a limit leaves what the process does not hold yet,
  // ...
  const std::int64_t more = free / 4;
  place.limit_memory(used + more);
  EXPECT_LE(cache_memory(place, config, false).bytes, free);
  EXPECT_NEAR(static_cast<double>(cache_memory(place, config, false).bytes), static_cast<double>(more),
              static_cast<double>(64 << 20));
  // ... nothing where it holds all of it, and never more than there would be without.
  place.limit_memory(used / 2);
  EXPECT_EQ(cache_memory(place, config, false).bytes, 0);
  place.limit_memory(std::int64_t{1} << 60);
  EXPECT_GT(cache_memory(place, config, false).bytes, free / 2);
  EXPECT_LT(cache_memory(place, config, false).bytes, std::int64_t{1} << 50);
}

}  // namespace
}  // namespace photon
