#include "comm/clock_offsets.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "testing/world.hpp"

namespace photon {
namespace {

using photon::testing::world;

TEST(ClockOffsets, AreWithinTheirUncertaintyOnOneHost) {
  const std::vector<ClockOffset> offsets = measure_clock_offsets(world().all());
  if (world().rank() != 0) {
    EXPECT_TRUE(offsets.empty());
    return;
  }
  ASSERT_EQ(offsets.size(), static_cast<std::size_t>(world().size()));
  EXPECT_EQ(offsets[0].offset_ns, 0);
  EXPECT_EQ(offsets[0].uncertainty_ns, 0);
  // Processes of one host read the same clock.
  for (std::size_t rank = 1; rank < offsets.size(); ++rank) {
    EXPECT_GT(offsets[rank].uncertainty_ns, 0);
    EXPECT_LE(std::abs(offsets[rank].offset_ns), offsets[rank].uncertainty_ns) << "rank " << rank;
  }
}

}  // namespace
}  // namespace photon
