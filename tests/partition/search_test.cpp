#include "partition/search.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "partition/prediction.hpp"
#include "partition/timeline.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

RunConfig run_of(const std::string& name, std::int64_t batch_size) {
  RunConfig config;
  config.model = preset(name);
  config.train.batch_size = batch_size;
  config.train.sequence_length = 512;
  return config;
}

Cluster cluster_of(std::int64_t ranks, double gib) {
  Cluster cluster;
  cluster.num_ranks = ranks;
  cluster.ranks_per_node = 4;
  cluster.memory_bytes = static_cast<std::int64_t>(gib * 0x1p30);
  cluster.flops = 1e14;
  cluster.memory_bandwidth = 2e12;
  cluster.within_node = {3e11, 1e-5};
  cluster.between_nodes = {5e10, 2e-5};
  return cluster;
}

std::string refusal(const RunConfig& config, const Cluster& cluster) {
  try {
    plan_given(config, cluster);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

// The settings after "... that fits needs 1.0 GiB: --set parallel.x=y --set ...".
ParallelConfig settings_in(const std::string& message) {
  ParallelConfig parallel;
  const auto number = [&](const std::string& key) -> std::int64_t {
    const auto at = message.find("--set parallel." + key + "=");
    return at == std::string::npos ? 0 : std::stoll(message.substr(at + 16 + key.size()));
  };
  parallel.stages = number("stages");
  parallel.shards = number("shards");
  parallel.microbatch_size = number("microbatch_size");
  parallel.zero = number("zero");
  if (message.find("parallel.recompute=layers") != std::string::npos) parallel.recompute = Recompute::layers;
  if (const auto at = message.find("--set parallel.cut="); at != std::string::npos) {
    parallel.cut = message.substr(at + 19, message.find(' ', at + 19) - at - 19);
  }
  return parallel;
}

TEST(Search, TakesTheLargestMicrobatchThatFits) {
  const RunConfig config = run_of("photon-60m", 16);
  EXPECT_EQ(plan_given(config, cluster_of(1, 1000)).microbatch_size, 16);
  const Plan tight = plan_given(config, cluster_of(1, 2));
  EXPECT_LT(tight.microbatch_size, 16);
  const Cluster cluster = cluster_of(1, 2);
  EXPECT_LE(CostModel(config, cluster, tight).memory_bytes(), cluster.memory_bytes);
}

TEST(Search, RecomputesWhereKeepingDoesNotFit) {
  RunConfig config = run_of("photon-60m", 16);
  config.parallel.microbatch_size = 16;
  const auto needed = [&](Recompute recompute) {
    config.parallel.recompute = recompute;
    const Cluster roomy = cluster_of(1, 1000);
    return CostModel(config, roomy, plan_given(config, roomy)).memory_bytes();
  };
  const std::int64_t keeping = needed(Recompute::none);
  const std::int64_t recomputing = needed(Recompute::layers);
  ASSERT_LT(recomputing, keeping);
  config.parallel.recompute = Recompute::automatic;
  Cluster cluster = cluster_of(1, 1);
  cluster.memory_bytes = keeping;
  EXPECT_FALSE(plan_given(config, cluster).passes.recompute);
  cluster.memory_bytes = keeping - 1;
  EXPECT_TRUE(plan_given(config, cluster).passes.recompute);
  cluster.memory_bytes = recomputing - 1;
  EXPECT_NE(refusal(config, cluster), "accepted");
  // Asked not to, it does not, and names the layout that would.
  cluster.memory_bytes = keeping - 1;
  config.parallel.recompute = Recompute::none;
  EXPECT_NE(refusal(config, cluster), "accepted");
  // The search takes it where nothing else fits.
  RunConfig large = run_of("photon-60m", 1);
  large.parallel.microbatch_size = 1;
  large.parallel.recompute = Recompute::none;
  cluster.memory_bytes =
      CostModel(large, cluster_of(1, 1000), plan_given(large, cluster_of(1, 1000))).memory_bytes() - 1;
  EXPECT_THROW(fastest_layout(large, cluster), InputError);
  large.parallel.recompute = Recompute::automatic;
  const ParallelConfig found = fastest_layout(large, cluster);
  EXPECT_EQ(found.recompute, Recompute::layers);
  EXPECT_NE(settings_text(found).find("--set parallel.recompute=layers"), std::string::npos);
}

TEST(Search, NamesTheNearestLayoutThatFits) {
  RunConfig config = run_of("photon-60m", 16);
  config.parallel.microbatch_size = 16;
  config.parallel.recompute = Recompute::none;
  const Cluster cluster = cluster_of(1, 2);
  const std::string message = refusal(config, cluster);
  EXPECT_NE(message.find("GiB on a rank that has 2.0 GiB"), std::string::npos) << message;
  EXPECT_NE(message.find("(weights "), std::string::npos) << message;
  ASSERT_NE(message.find("the nearest layout that fits needs "), std::string::npos) << message;
  config.parallel = settings_in(message);
  EXPECT_EQ(config.parallel.stages, 1);
  EXPECT_EQ(refusal(config, cluster), "accepted") << message;
}

TEST(Search, StagesHoldWhatOneRankCannot) {
  RunConfig config = run_of("photon-600m", 16);
  const Cluster cluster = cluster_of(4, 5);
  const std::string message = refusal(config, cluster);
  ASSERT_NE(message.find("the nearest layout that fits needs "), std::string::npos) << message;
  config.parallel = settings_in(message);
  EXPECT_GT(config.parallel.stages, 1) << message;
  EXPECT_EQ(refusal(config, cluster), "accepted") << message;
}

// Where the replicas' moments do not fit, dividing them is nearer than stages.
TEST(Search, DividesMomentsBeforeTheModel) {
  RunConfig config = run_of("photon-600m", 16);
  const Cluster cluster = cluster_of(4, 8);
  const std::string message = refusal(config, cluster);
  config.parallel = settings_in(message);
  EXPECT_EQ(config.parallel.stages, 1) << message;
  EXPECT_EQ(config.parallel.zero, 1) << message;
  EXPECT_EQ(refusal(config, cluster), "accepted") << message;
}

TEST(Search, SaysWhenNothingFits) {
  const RunConfig config = run_of("photon-600m", 4);
  const std::string message = refusal(config, cluster_of(2, 1));
  EXPECT_NE(message.find("no layout on 2 ranks fits, the smallest needs "), std::string::npos) << message;
  EXPECT_NE(message.find("take more ranks"), std::string::npos) << message;
  EXPECT_THROW(fastest_layout(config, cluster_of(2, 1)), InputError);
  EXPECT_THROW(fastest_layout(run_of("vanilla-600m", 1), cluster_of(19, 1000)), InputError);
}

TEST(Search, NoLayoutIsFasterThanTheOneFound) {
  for (const double gib : {6.0, 100.0}) {
    RunConfig config = run_of("photon-60m", 8);
    const Cluster cluster = cluster_of(4, gib);
    config.parallel = fastest_layout(config, cluster);
    const Plan best = plan_given(config, cluster);
    const double found = predict(config, cluster, best).seconds;
    int num_tried = 0;
    for (std::int64_t stages = 1; stages <= 4; ++stages) {
      for (const std::int64_t shards : {1, 2, 3}) {
        for (const std::int64_t size : {1, 2, 4, 8}) {
          RunConfig other = config;
          other.parallel = {.stages = stages, .shards = shards, .cut = "", .microbatch_size = size};
          if (refusal(other, cluster) != "accepted") continue;
          EXPECT_LE(found, predict(other, cluster, plan_given(other, cluster)).seconds * (1 + 1e-12))
              << settings_text(other.parallel);
          ++num_tried;
        }
      }
    }
    EXPECT_GT(num_tried, 5);
  }
}

TEST(Timeline, ShowsEveryStage) {
  RunConfig config = run_of("photon-60m", 8);
  config.parallel = {.stages = 2, .shards = 3, .cut = "decoder2", .microbatch_size = 2};
  const Cluster cluster = cluster_of(4, 100);
  const Plan plan = plan_given(config, cluster);
  const std::string text = timeline_text(plan, predict(config, cluster, plan), 60, 2);
  EXPECT_NE(text.find("\nrank 0      0"), std::string::npos) << text;
  EXPECT_NE(text.find("\nrank 2      "), std::string::npos) << text;
  EXPECT_EQ(text.find("\nrank 3"), std::string::npos) << text;
  EXPECT_NE(text.find("(1 more like it)"), std::string::npos) << text;
  for (const char mark : {'0', '3', 'a', 'd', '=', '.'}) {
    EXPECT_NE(text.substr(0, text.find("0-9 forward")).find(mark), std::string::npos) << mark << "\n" << text;
  }
}

}  // namespace
}  // namespace photon
