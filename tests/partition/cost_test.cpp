#include "partition/cost.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "blueprint/activations.hpp"
#include "blueprint/flops.hpp"
#include "blueprint/parameters.hpp"
#include "partition/prediction.hpp"

namespace photon {
namespace {

// Three levels, chunks 2, 3, 2: sequences of 29 tokens are padded to 36, three groups of 12.
ModelConfig three_levels() {
  ModelConfig model;
  model.vocab_size = 50;
  model.dim = 8;
  const auto stack = [](std::int64_t layers, std::int64_t heads, std::int64_t ffn) {
    StackConfig s;
    s.layers = layers;
    s.heads = heads;
    s.kv_heads = heads;
    s.ffn = ffn;
    return s;
  };
  for (const auto& [dim, chunk] : {std::pair{12, 2}, std::pair{16, 3}, std::pair{20, 2}}) {
    LevelConfig level;
    level.dim = dim;
    level.chunk = chunk;
    level.prefix = 2;
    level.encoder = stack(2, 4, 24);
    level.decoder = stack(1, 2, 20);
    model.levels.push_back(level);
  }
  return model;
}

RunConfig run_of(const ModelConfig& model, std::int64_t stages, std::int64_t shards, const std::string& cut = "") {
  RunConfig config;
  config.model = model;
  config.train.batch_size = 16;
  config.train.sequence_length = 29;
  config.parallel.stages = stages;
  config.parallel.shards = shards;
  config.parallel.cut = cut;
  config.parallel.microbatch_size = 2;
  return config;
}

Cluster cluster_of(std::int64_t ranks, std::int64_t ranks_per_node) {
  Cluster cluster;
  cluster.num_ranks = ranks;
  cluster.ranks_per_node = ranks_per_node;
  cluster.memory_bytes = std::int64_t{1} << 40;
  cluster.flops = 1e9;
  cluster.memory_bandwidth = 1e9;
  cluster.within_node = {1e8, 1e-6};
  cluster.between_nodes = {1e7, 1e-5};
  return cluster;
}

Plan plan_of(const RunConfig& config, std::int64_t ranks) {
  return make_plan(config, ranks, 0, [](std::int64_t) { return std::int64_t{0}; });
}

const std::vector<std::tuple<std::int64_t, std::int64_t, std::string>> cuts = {
    {1, 1, ""},
    {2, 1, ""},
    {2, 1, "encoder2"},
    {2, 3, ""},
    {3, 2, ""},
    {4, 2, "encoder2,decoder2,decoder1"},
    {6, 1, ""},
    {2, 5, "decoder3"},
    {3, 4, "encoder3,decoder3"},
    {3, 2, "encoder2.1,decoder3"},
    {4, 1, "encoder1.1,encoder2.1,encoder3.1"}};

TEST(Cost, TheRanksOfAnyCutDoTheBlueprintsWork) {
  for (const auto& [stages, shards, cut] : cuts) {
    const RunConfig config = run_of(three_levels(), stages, shards, cut);
    const std::int64_t ranks = 2 * (stages - 1 + shards);
    const Plan plan = plan_of(config, ranks);
    const Cluster cluster = cluster_of(ranks, 4);
    const CostModel cost(config, cluster, plan);
    double flops = 0;
    std::int64_t parameters = 0;
    for (std::int64_t rank = 0; rank < cost.num_ranks(); ++rank) {
      flops += cost.rank(rank).forward().flops + cost.rank(rank).backward().flops;
      if (plan.role(rank).shard == 0) parameters += cost.rank(rank).num_parameters;
    }
    const double step = flops * static_cast<double>(plan.replicas * plan.num_microbatches());
    const double expected = 16 * training_flops(config.model, 29);
    EXPECT_NEAR(step, expected, 1e-9 * expected) << stages << " " << shards << " " << cut;
    // The embedding lies on the first and the last stage.
    EXPECT_EQ(parameters, num_parameters(config.model) + (stages > 1 ? 50 * 8 : 0)) << stages << " " << shards;
  }
}

TEST(Cost, OneStageHoldsWhatTheBlueprintSays) {
  ModelConfig vanilla;
  vanilla.type = ModelType::vanilla;
  vanilla.vocab_size = 50;
  vanilla.dim = 8;
  vanilla.stack.layers = 2;
  vanilla.stack.heads = vanilla.stack.kv_heads = 2;
  vanilla.stack.ffn = 20;
  ModelConfig block = three_levels();
  block.levels.resize(1);
  ModelConfig lookback = three_levels();
  lookback.lookback = 3;
  for (const ModelConfig& model : {three_levels(), block, lookback, vanilla, preset("photon-60m")}) {
    const RunConfig config = run_of(model, 1, 1);
    const Plan plan = plan_of(config, 2);
    const Cluster cluster = cluster_of(2, 2);
    const MemoryUse use = CostModel(config, cluster, plan).rank(0).memory;
    const std::int64_t flat = 4 * flat_size(parameters(model));
    EXPECT_EQ(use.weights, flat);
    EXPECT_EQ(use.gradients, flat);
    EXPECT_EQ(use.optimizer, 2 * flat);
    EXPECT_EQ(use.activations, training_activation_bytes(model, 2, 29));
    EXPECT_EQ(use.staging, 0);
    EXPECT_EQ(use.total(), 4 * flat + use.activations);
  }
}

// A rank's weights have bf16 copies beside their fp32 masters; activations and messages take half.
TEST(Cost, CountsTheBytesOfThePrecision) {
  for (const auto& [stages, shards, cut] : cuts) {
    RunConfig config = run_of(three_levels(), stages, shards, cut);
    const std::int64_t ranks = stages - 1 + shards;
    const Plan plan = plan_of(config, ranks);
    const Cluster cluster = cluster_of(ranks, 4);
    const CostModel fp32(config, cluster, plan);
    RunConfig half = config;
    half.train.precision = Precision::bf16;
    const CostModel bf16(half, cluster, plan);
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const MemoryUse& a = fp32.rank(rank).memory;
      const MemoryUse& b = bf16.rank(rank).memory;
      EXPECT_EQ(2 * b.weights, 3 * a.weights);
      EXPECT_EQ(b.gradients, a.gradients);
      EXPECT_EQ(b.optimizer, a.optimizer);
      const std::int64_t groups = plan.groups(rank, plan.microbatch_size, 3).count;
      EXPECT_EQ(b.activations, plan.max_in_flight(plan.role(rank).stage, plan.num_microbatches()) *
                                   stage_activation_bytes(config.model, plan.stage_of(rank).layers, 2, 29, groups, 2));
      EXPECT_LE(2 * b.staging, a.staging);
    }
    for (const Crossing& crossing : plan.crossings) {
      EXPECT_EQ(2 * bf16.message_bytes(crossing.from, crossing.to, crossing.tensor),
                fp32.message_bytes(crossing.from, crossing.to, crossing.tensor));
    }
  }
}

TEST(Cost, RecomputationTakesFlopsForMemory) {
  for (const auto& [stages, shards, cut] : cuts) {
    RunConfig config = run_of(three_levels(), stages, shards, cut);
    const std::int64_t ranks = stages - 1 + shards;
    const Cluster cluster = cluster_of(ranks, 4);
    const Plan keeping = plan_of(config, ranks);
    config.parallel.recompute = Recompute::layers;
    const Plan recomputing = plan_of(config, ranks);
    const CostModel kept(config, cluster, keeping);
    const CostModel again(config, cluster, recomputing);
    double forward = 0;
    double more = 0;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(again.rank(rank).forward().flops, kept.rank(rank).forward().flops);
      more += again.rank(rank).backward().flops - kept.rank(rank).backward().flops;
      forward += again.rank(rank).forward().flops;
      EXPECT_GT(again.backward_seconds(rank), kept.backward_seconds(rank));
      const std::int64_t groups = recomputing.groups(rank, recomputing.microbatch_size, 3).count;
      EXPECT_EQ(again.rank(rank).memory.activations,
                recomputing.max_in_flight(recomputing.role(rank).stage, recomputing.num_microbatches()) *
                    stage_activation_bytes(config.model, recomputing.stage_of(rank).layers, 2, 29, groups, f32_bytes,
                                           {.recompute = true}));
    }
    const std::vector<double> layers = recompute_flops(config.model, 29);
    const double expected = 2 * std::accumulate(layers.begin(), layers.end(), 0.0);  // a microbatch of 2
    EXPECT_NEAR(more, expected, 1e-9 * expected);
    EXPECT_LT(more, forward);
  }
}

TEST(Cost, SharedMomentsAreDivided) {
  RunConfig config = run_of(three_levels(), 2, 3, "decoder3");
  const auto memory = [&](std::int64_t zero, std::int64_t ranks) {
    config.parallel.zero = zero;
    const Plan plan = plan_of(config, ranks);
    const Cluster cluster = cluster_of(ranks, 4);
    const CostModel cost(config, cluster, plan);
    std::vector<MemoryUse> use;
    for (std::int64_t rank = 0; rank < 4; ++rank) use.push_back(cost.rank(rank).memory);
    return use;
  };
  const std::vector<MemoryUse> all = memory(0, 16);
  const std::vector<MemoryUse> shared = memory(1, 16);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(shared[rank].weights, all[rank].weights);
    EXPECT_LT(shared[rank].optimizer, all[rank].optimizer);
  }
  // Four replicas hold the encoders, twelve ranks the decoders; shares are multiples of 64 elements.
  EXPECT_NEAR(static_cast<double>(shared[0].optimizer), static_cast<double>(all[0].optimizer) / 4, 2 * 4 * 64 * 8);
  EXPECT_NEAR(static_cast<double>(shared[1].optimizer), static_cast<double>(all[1].optimizer) / 12, 2 * 4 * 64 * 8);
}

// The sums of a module's gradients go on beside the passes of the next ones.
TEST(Prediction, SumsOverlapTheLastBackward) {
  RunConfig config = run_of(three_levels(), 1, 1);
  const Plan plan = plan_of(config, 8);
  Cluster cluster = cluster_of(8, 8);
  const Prediction prediction = predict(config, cluster, plan);
  const CostModel cost(config, cluster, plan);
  double sums = 0;
  for (const Bucket& bucket : cost.rank(0).buckets) sums += cost.sum_seconds(0, bucket);
  const RankTimes& times = prediction.simulation.ranks.front();
  EXPECT_GT(sums, 0);
  EXPECT_LT(times.communication, sums);
  EXPECT_LT(prediction.seconds, times.compute + sums);
  // At least the sum of what is complete last is waited for.
  EXPECT_GE(times.communication, cost.sum_seconds(0, cost.rank(0).buckets.front()));
}

TEST(Cost, MessagesCarryTheRowsOfBothRanks) {
  // Two sequences of three groups; the three shards take two groups each.
  const RunConfig config = run_of(three_levels(), 2, 3, "decoder3");
  const Plan plan = plan_of(config, 4);
  const Cluster cluster = cluster_of(4, 4);
  const CostModel cost(config, cluster, plan);
  const std::vector<Program> programs = schedule(plan, plan.num_microbatches(), {});
  std::int64_t x1 = 0;
  for (std::int64_t shard = 1; shard <= 3; ++shard) {
    EXPECT_EQ(cost.message_bytes(0, shard, {Boundary::Kind::encoder_state, 1, false}), 2 * 6 * 12 * 4);
    EXPECT_EQ(cost.message_bytes(shard, 0, {Boundary::Kind::encoder_state, 1, true}), 2 * 6 * 12 * 4);
    EXPECT_EQ(cost.message_bytes(0, shard, {Boundary::Kind::encoder_state, 2, false}), 2 * 2 * 16 * 4);
    EXPECT_EQ(cost.message_bytes(0, shard, {Boundary::Kind::conditioning, 3, false}), 2 * 1 * 20 * 4);
    x1 += cost.message_bytes(0, shard, {Boundary::Kind::encoder_state, 1, false});
  }
  EXPECT_EQ(x1, 6 * 6 * 12 * 4);  // every unit of level 1 once
  // X(1), X(2) and c(3) of eight microbatches; the gradients come back alike.
  const double forward = 8.0 * 6 * 4 * (6 * 12 + 2 * 16 + 20);
  EXPECT_EQ(cost.sent_bytes(0, programs[0]), forward);
  EXPECT_EQ(cost.sent_bytes(1, programs[1]) + cost.sent_bytes(2, programs[2]) + cost.sent_bytes(3, programs[3]),
            forward);
}

TEST(Cost, TheSimulatorFindsThePredictedActivations) {
  for (const auto& [stages, shards, cut] : cuts) {
    const RunConfig config = run_of(three_levels(), stages, shards, cut);
    const std::int64_t ranks = stages - 1 + shards;
    const Plan plan = plan_of(config, ranks);
    const Cluster cluster = cluster_of(ranks, 4);
    const Prediction prediction = predict(config, cluster, plan);
    for (std::size_t rank = 0; rank < prediction.costs.size(); ++rank) {
      EXPECT_EQ(prediction.simulation.ranks[rank].peak_memory, prediction.costs[rank].memory.activations)
          << stages << " stages, " << shards << " shards, rank " << rank;
    }
  }
}

TEST(Prediction, OneReplicaStandsForAll) {
  // Replicas of three ranks on nodes of four: they lie on nodes in four ways.
  const RunConfig config = run_of(three_levels(), 2, 2, "decoder3");
  const Plan plan = plan_of(config, 24);
  const Cluster cluster = cluster_of(24, 4);
  const Prediction prediction = predict(config, cluster, plan);
  // Every rank of every replica simulated together.
  const CostModel cost(config, cluster, plan);
  const std::vector<Program> programs = schedule(one_replica(plan), plan.num_microbatches(), {});
  std::vector<TimedProgram> all;
  for (std::int64_t rank = 0; rank < 24; ++rank) {
    TimedProgram timed = cost.timed(rank % 3, programs[static_cast<std::size_t>(rank % 3)], rank / 3 * 3);
    for (TimedInstruction& i : timed) {
      if (i.peer >= 0) i.peer += rank / 3 * 3;
      if (i.group >= 0) i.group_size *= 8;  // of all replicas
    }
    all.push_back(timed);
  }
  EXPECT_DOUBLE_EQ(prediction.seconds, simulate(all).seconds);
  EXPECT_DOUBLE_EQ(prediction.tokens_per_second, 16 * 29 / prediction.seconds);
}

TEST(Prediction, TakesAHundredThousandRanks) {
  RunConfig config = run_of(three_levels(), 2, 3, "decoder3");
  config.train.batch_size = 400'000;
  config.parallel.microbatch_size = 4;
  const Plan plan = plan_of(config, 100'000);
  const Cluster cluster = cluster_of(100'000, 8);
  const Prediction prediction = predict(config, cluster, plan);
  EXPECT_EQ(plan.replicas, 25'000);
  EXPECT_EQ(prediction.costs.size(), 4U);
  EXPECT_GT(prediction.seconds, 0);
  EXPECT_GT(prediction.bubble, 0);
  EXPECT_LT(prediction.bubble, 1);
}

TEST(Prediction, FollowsTheCluster) {
  const RunConfig config = run_of(three_levels(), 2, 3, "decoder3");
  const Plan plan = plan_of(config, 8);
  Cluster cluster = cluster_of(8, 4);
  const Prediction slow = predict(config, cluster, plan);
  EXPECT_GE(slow.seconds, CostModel(config, cluster, plan).busiest_seconds());
  cluster.flops *= 2;
  cluster.memory_bandwidth *= 2;
  cluster.within_node = {2e8, 5e-7};
  cluster.between_nodes = {2e7, 5e-6};
  EXPECT_NEAR(predict(config, cluster, plan).seconds, slow.seconds / 2, 1e-12);
  EXPECT_NEAR(predict(config, cluster, plan).bubble, slow.bubble, 1e-12);
}

}  // namespace
}  // namespace photon
