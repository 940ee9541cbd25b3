#include "support/random.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace photon {
namespace {

// The known answers that ship with Random123 (kat_vectors): philox4x32-10.
TEST(Philox, MatchesTheReferenceVectors) {
  const auto zeros = philox(0, {0, 0, 0, 0});
  EXPECT_EQ(zeros, (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const auto ones = philox(0xffffffffffffffffULL, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff});
  EXPECT_EQ(ones, (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Random, NormalHasUnitVariance) {
  const int n = 100000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random_normal(1, 2, static_cast<std::uint64_t>(i));
    sum += x;
    squares += x * x;
  }
  EXPECT_LE(std::abs(sum / n), 4 / std::sqrt(n));  // 4 standard errors
  EXPECT_LE(std::abs(squares / n - 1), 4 * std::sqrt(2.0 / n));
}

TEST(PermuteIndex, IsABijection) {
  for (const std::uint64_t size : {1ULL, 2ULL, 5ULL, 64ULL, 1009ULL}) {
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < size; ++i) {
      const std::uint64_t j = permute_index(7, 3, size, i);
      EXPECT_LT(j, size);
      seen.insert(j);
    }
    EXPECT_EQ(seen.size(), size);
  }
}

TEST(PermuteIndex, DependsOnSeedAndStream) {
  int same_seed = 0;
  int same_stream = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    same_seed += permute_index(1, 0, 1000, i) == permute_index(2, 0, 1000, i);
    same_stream += permute_index(1, 0, 1000, i) == permute_index(1, 1, 1000, i);
  }
  EXPECT_LT(same_seed, 20);  // 1 expected
  EXPECT_LT(same_stream, 20);
}

}  // namespace
}  // namespace photon
