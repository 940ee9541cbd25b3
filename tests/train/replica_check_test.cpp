#include "train/replica_check.hpp"

#include <gtest/gtest.h>

namespace photon {
namespace {

using Ranks = std::vector<std::int64_t>;

TEST(ReplicaCheck, NamesWhoDiffersFromMost) {
  EXPECT_EQ(differing_ranks({7, 7, 7}, {0, 0, 0}), Ranks{});
  EXPECT_EQ(differing_ranks({7, 8, 7}, {0, 0, 0}), Ranks{1});
  EXPECT_EQ(differing_ranks({7, 8, 9, 7, 7}, {0, 0, 0, 0, 0}), (Ranks{1, 2}));
  EXPECT_EQ(differing_ranks({7}, {0}), Ranks{});
}

TEST(ReplicaCheck, OfTwoNobodyKnowsWhichIsRight) {
  EXPECT_EQ(differing_ranks({7, 8}, {0, 0}), (Ranks{0, 1}));
  EXPECT_EQ(differing_ranks({7, 8, 8, 7}, {0, 0, 0, 0}), (Ranks{0, 1, 2, 3}));
}

TEST(ReplicaCheck, ComparesWithinAStage) {
  EXPECT_EQ(differing_ranks({1, 2, 1, 2, 1, 2}, {0, 1, 0, 1, 0, 1}), Ranks{});
  EXPECT_EQ(differing_ranks({1, 2, 1, 2, 1, 1}, {0, 1, 0, 1, 0, 1}), Ranks{5});
}

}  // namespace
}  // namespace photon
