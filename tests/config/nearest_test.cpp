#include "config/nearest.hpp"

#include <gtest/gtest.h>

namespace photon {
namespace {

TEST(Nearest, FindsTheLeastEditDistance) {
  const std::vector<std::string> words = {"seed", "steps", "shards", "stages"};
  EXPECT_EQ(nearest("stpes", words), "steps");
  EXPECT_EQ(nearest("step", words), "steps");
  EXPECT_EQ(nearest("shrads", words), "shards");
  EXPECT_EQ(nearest("stage", words), "stages");
  EXPECT_EQ(nearest("", words), "seed");
}

TEST(Nearest, ATranspositionCountsOne) {
  // "ab" -> "ba" is one transposition but two substitutions: as near as one substitution, and first of equals.
  EXPECT_EQ(nearest("ab", {"ba", "ac"}), "ba");
  EXPECT_EQ(nearest("ab", {"ac", "ba"}), "ac");
  EXPECT_EQ(nearest("ab", {"cd", "ba"}), "ba");
}

TEST(Nearest, TakesEmptyAndVeryLongInput) {
  EXPECT_EQ(nearest("x", {}), "");
  EXPECT_EQ(nearest(std::string(1000000, 'x'), {"a", "xxxxxxxx"}), "xxxxxxxx");
}

}  // namespace
}  // namespace photon
