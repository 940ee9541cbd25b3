#include "partition/decode_layout.hpp"

#include <gtest/gtest.h>

#include <string>

#include "support/error.hpp"

namespace photon {
namespace {

std::string refusal(int ranks, int shards) {
  try {
    decode_layout(ranks, shards);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST(DecodeLayout, GivesEveryRankItsPlace) {
  const DecodeLayout replicas = decode_layout(3, 0);
  EXPECT_EQ(replicas.num_groups(), 3);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(replicas.group_of(rank), rank);
    EXPECT_TRUE(replicas.takes_prompts(rank));
  }
  const DecodeLayout groups = decode_layout(6, 2);
  EXPECT_EQ(groups.num_groups(), 2);
  EXPECT_EQ(groups.ranks_per_group(), 3);
  for (int rank = 0; rank < 6; ++rank) {
    EXPECT_EQ(groups.group_of(rank), rank / 3);
    EXPECT_EQ(groups.takes_prompts(rank), rank == 0 || rank == 3);
  }
}

TEST(DecodeLayout, RefusesWhatDoesNotDivideAndNamesTheNearest) {
  EXPECT_EQ(
      refusal(1, 1),
      "--decoder-shards 1 on 1 rank (a group is one coarse rank and its shards, 2 ranks, and all ranks belong to one) "
      "start 2 ranks");
  EXPECT_NE(refusal(6, 3).find("start 4 or 8 ranks, or use --decoder-shards 2"), std::string::npos) << refusal(6, 3);
  EXPECT_NE(refusal(5, 1).find("start 4 or 6 ranks, or use --decoder-shards 0"), std::string::npos) << refusal(5, 1);
  EXPECT_NE(refusal(4, -1), "");
  EXPECT_EQ(refusal(4, 3), "");
}

TEST(DecodeLayout, VanillaModelsHaveNoShards) {
  ModelConfig config;
  EXPECT_NO_THROW(require_decoder_shards(config));
  config.type = ModelType::vanilla;
  EXPECT_THROW(require_decoder_shards(config), InputError);
}

}  // namespace
}  // namespace photon
