// Backwards in two parts: their schedule, what they cost, and when the planner takes them.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "blueprint/activations.hpp"
#include "blueprint/flops.hpp"
#include "partition/prediction.hpp"
#include "partition/search.hpp"
#include "partition/timeline.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

ModelConfig two_levels() {
  ModelConfig model;
  model.vocab_size = 50;
  model.dim = 8;
  for (const std::int64_t dim : {12, 16}) {
    LevelConfig level;
    level.dim = dim;
    level.chunk = 2;
    level.prefix = 2;
    level.encoder.layers = level.decoder.layers = 2;
    level.encoder.heads = level.encoder.kv_heads = 4;
    level.decoder.heads = level.decoder.kv_heads = 2;
    level.encoder.ffn = level.decoder.ffn = 24;
    model.levels.push_back(level);
  }
  return model;
}

ModelConfig vanilla(std::int64_t layers) {
  ModelConfig model;
  model.type = ModelType::vanilla;
  model.vocab_size = 50;
  model.dim = 64;
  model.stack.layers = layers;
  model.stack.heads = model.stack.kv_heads = 4;
  model.stack.ffn = 170;
  return model;
}

RunConfig run_of(const ModelConfig& model, std::int64_t stages, std::int64_t shards, const std::string& cut,
                 SplitBackward split) {
  RunConfig config;
  config.model = model;
  config.train.batch_size = 16;
  config.train.sequence_length = 29;
  config.parallel = {.stages = stages, .shards = shards, .cut = cut, .microbatch_size = 2, .split_backward = split};
  return config;
}

Cluster cluster_of(std::int64_t ranks) {
  Cluster cluster = usual_cluster(ranks, 4, false);
  cluster.memory_bytes = std::int64_t{1} << 40;
  return cluster;
}

Plan plan_of(const RunConfig& config, std::int64_t ranks) {
  return make_plan(config, ranks, 0, [](std::int64_t) { return std::int64_t{0}; });
}

std::vector<std::string> texts(const Program& program) {
  std::vector<std::string> result;
  for (const Instruction& i : program) result.push_back(i.str());
  return result;
}

const std::vector<std::tuple<std::int64_t, std::int64_t, std::string>> cuts = {{2, 1, "decoder2"},
                                                                               {2, 3, "decoder1"},
                                                                               {3, 2, "encoder2.1,decoder1"},
                                                                               {4, 1, ""},
                                                                               {4, 2, "encoder2,decoder2,decoder1"},
                                                                               {8, 1, ""}};

TEST(SplitBackward, PassesGradientsOnBeforeThoseOfWeights) {
  const Plan plan = plan_of(run_of(two_levels(), 2, 2, "decoder2", SplitBackward::on), 3);
  EXPECT_EQ(texts(program_of(plan, 0, 3, {})), (std::vector<std::string>{"forward 0",
                                                                         "send X(1) 0 to rank 1",
                                                                         "send X(1) 0 to rank 2",
                                                                         "send c(2) 0 to rank 1",
                                                                         "send c(2) 0 to rank 2",
                                                                         "forward 1",
                                                                         "send X(1) 1 to rank 1",
                                                                         "send X(1) 1 to rank 2",
                                                                         "send c(2) 1 to rank 1",
                                                                         "send c(2) 1 to rank 2",
                                                                         "receive dX(1) 0 from rank 1",
                                                                         "receive dX(1) 0 from rank 2",
                                                                         "receive dc(2) 0 from rank 1",
                                                                         "receive dc(2) 0 from rank 2",
                                                                         "backward_input 0",
                                                                         "backward_weight 0",
                                                                         "forward 2",
                                                                         "send X(1) 2 to rank 1",
                                                                         "send X(1) 2 to rank 2",
                                                                         "send c(2) 2 to rank 1",
                                                                         "send c(2) 2 to rank 2",
                                                                         "receive dX(1) 1 from rank 1",
                                                                         "receive dX(1) 1 from rank 2",
                                                                         "receive dc(2) 1 from rank 1",
                                                                         "receive dc(2) 1 from rank 2",
                                                                         "backward_input 1",
                                                                         "backward_weight 1",
                                                                         "receive dX(1) 2 from rank 1",
                                                                         "receive dX(1) 2 from rank 2",
                                                                         "receive dc(2) 2 from rank 1",
                                                                         "receive dc(2) 2 from rank 2",
                                                                         "backward_input 2",
                                                                         "backward_weight 2",
                                                                         "all_reduce embedding",
                                                                         "all_reduce",
                                                                         "wait",
                                                                         "clip_norm",
                                                                         "step"}));
  // The shards' weights wait for a microbatch, and the last ones go module by module.
  EXPECT_EQ(texts(program_of(plan, 2, 3, {})), (std::vector<std::string>{"receive X(1) 0 from rank 0",
                                                                         "receive c(2) 0 from rank 0",
                                                                         "forward 0",
                                                                         "backward_input 0",
                                                                         "send dX(1) 0 to rank 0",
                                                                         "send dc(2) 0 to rank 0",
                                                                         "receive X(1) 1 from rank 0",
                                                                         "receive c(2) 1 from rank 0",
                                                                         "forward 1",
                                                                         "backward_input 1",
                                                                         "send dX(1) 1 to rank 0",
                                                                         "send dc(2) 1 to rank 0",
                                                                         "backward_weight 0",
                                                                         "receive X(1) 2 from rank 0",
                                                                         "receive c(2) 2 from rank 0",
                                                                         "forward 2",
                                                                         "backward_input 2",
                                                                         "send dX(1) 2 to rank 0",
                                                                         "send dc(2) 2 to rank 0",
                                                                         "backward_weight 1 decoder1",
                                                                         "backward_weight 2 decoder1",
                                                                         "all_reduce decoder1",
                                                                         "backward_weight 1 decoder2",
                                                                         "backward_weight 2 decoder2",
                                                                         "all_reduce decoder2",
                                                                         "all_reduce embedding",
                                                                         "all_reduce",
                                                                         "wait",
                                                                         "clip_norm",
                                                                         "step"}));
}

// Of every layout, whatever the number of microbatches.
TEST(SplitBackward, DoesEveryPartOnceInItsOrderAndKeepsWhatThePlanSays) {
  for (const auto& [stages, shards, cut] : cuts) {
    const std::int64_t ranks = stages - 1 + shards;
    const Plan plan = plan_of(run_of(two_levels(), stages, shards, cut, SplitBackward::on), 2 * ranks);
    for (const std::int64_t num_microbatches : {1, 2, 3, 5, 12}) {
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        SCOPED_TRACE(fmt::format("{} stages, {} microbatches, rank {}", stages, num_microbatches, rank));
        std::set<std::int64_t> forwarded;
        std::set<std::int64_t> passed_on;
        std::map<std::int64_t, std::vector<std::int64_t>> weights;  // microbatches, in order, of each module
        std::map<std::int64_t, std::size_t> held;                   // modules whose weights are missing
        std::size_t most_held = 0;
        const std::vector<HostedModule>& modules = plan.stage_of(rank).modules;
        for (const Instruction& i : program_of(plan, rank, num_microbatches, {})) {
          EXPECT_NE(i.op, Op::backward);
          if (i.op == Op::forward) {
            EXPECT_TRUE(forwarded.insert(i.microbatch).second);
            held[i.microbatch] = modules.size();
          }
          if (i.op == Op::backward_input) {
            EXPECT_EQ(forwarded.count(i.microbatch), 1U);
            EXPECT_TRUE(passed_on.insert(i.microbatch).second);
          }
          if (i.op == Op::backward_weight) {
            EXPECT_EQ(passed_on.count(i.microbatch), 1U);
            for (const HostedModule& module : modules) {
              if (i.module >= 0 && i.module != module.module) continue;
              weights[module.module].push_back(i.microbatch);
              if (--held[i.microbatch] == 0) held.erase(i.microbatch);
            }
          }
          if (i.op == Op::all_reduce && i.module >= 0) {
            EXPECT_EQ(weights[i.module].size(), static_cast<std::size_t>(num_microbatches)) << "summed too early";
          }
          most_held = std::max(most_held, held.size());
        }
        EXPECT_EQ(passed_on.size(), static_cast<std::size_t>(num_microbatches));
        EXPECT_TRUE(held.empty());
        std::vector<std::int64_t> all;
        for (std::int64_t i = 0; i < num_microbatches; ++i) all.push_back(i);
        EXPECT_EQ(weights.size(), modules.size());
        for (const auto& [module, order] : weights) EXPECT_EQ(order, all) << "module " << module;
        EXPECT_EQ(static_cast<std::int64_t>(most_held), plan.max_in_flight(plan.role(rank).stage, num_microbatches));
        EXPECT_EQ(static_cast<std::int64_t>(most_held), std::min(stages, num_microbatches));
      }
    }
  }
}

TEST(SplitBackward, DividesTheWorkAndCountsWhatItKeeps) {
  for (const auto& [stages, shards, cut] : cuts) {
    const std::int64_t ranks = stages - 1 + shards;
    const RunConfig whole_config = run_of(two_levels(), stages, shards, cut, SplitBackward::off);
    const RunConfig split_config = run_of(two_levels(), stages, shards, cut, SplitBackward::on);
    const Plan whole_plan = plan_of(whole_config, ranks);
    const Plan split_plan = plan_of(split_config, ranks);
    const Cluster cluster = cluster_of(ranks);
    const CostModel whole(whole_config, cluster, whole_plan);
    const CostModel split(split_config, cluster, split_plan);
    double weights = 0;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const double flops = whole.rank(rank).backward().flops;
      EXPECT_NEAR(split.rank(rank).backward().flops, flops, 1e-9 * flops);
      double part = 0;
      for (const ModuleCost& module : split.rank(rank).modules) part += module.weights.flops;
      EXPECT_GT(part, 0);
      EXPECT_LT(part, flops / 2);  // attention and the head have none
      weights += part;
      EXPECT_EQ(whole.weights_seconds(rank), 0);
      const std::int64_t groups = split_plan.groups(rank, 2, 8).count;
      const std::int64_t arena = stage_activation_bytes(split_config.model, split_plan.stage_of(rank).layers, 2, 29,
                                                        groups, f32_bytes, {.split_backward = true});
      EXPECT_EQ(split.rank(rank).memory.activations, std::min<std::int64_t>(stages, 8) * arena);
    }
    const std::vector<double> layers = weight_gradient_flops(split_config.model, 29);
    double expected = 0;
    for (const double flops : layers) expected += 2 * flops;  // a microbatch of 2
    EXPECT_NEAR(weights, expected, 1e-9 * expected);
    const Prediction prediction = predict(split_config, cluster, split_plan);
    for (std::size_t rank = 0; rank < prediction.costs.size(); ++rank) {
      EXPECT_EQ(prediction.simulation.ranks[rank].peak_memory, prediction.costs[rank].memory.activations);
    }
  }
}

// Equal stages of which forward, input part and weight part take 1 s each: all but the last stage's start is hidden.
TEST(SplitBackward, FillsTheDrainOfEqualStages) {
  for (const std::int64_t stages : {2, 3, 4}) {
    RunConfig config = run_of(vanilla(stages), stages, 1, "", SplitBackward::on);
    for (const std::int64_t num_microbatches : {1, 2, 4, 16}) {
      config.train.batch_size = 2 * num_microbatches;
      const auto seconds = [&](bool split) {
        Plan plan = plan_of(config, stages);
        plan.passes.split_backward = split;
        std::vector<TimedProgram> timed;
        for (std::int64_t rank = 0; rank < stages; ++rank) {
          TimedProgram program;
          for (const Instruction& i : program_of(plan, rank, num_microbatches, {})) {
            TimedInstruction t{.name = i.str()};
            if (i.op == Op::send || i.op == Op::receive) {
              t.kind = i.op == Op::send ? TimedInstruction::Kind::send : TimedInstruction::Kind::receive;
              t.peer = i.peer;
              t.message = 2 * i.microbatch + (i.tensor.gradient ? 1 : 0);
            } else if (i.microbatch >= 0) {
              t.seconds = i.op == Op::backward ? 2 : 1;
            }
            program.push_back(t);
          }
          timed.push_back(program);
        }
        return simulate(timed).seconds;
      };
      const auto m = static_cast<double>(num_microbatches);
      const auto p = static_cast<double>(stages);
      EXPECT_DOUBLE_EQ(seconds(false), 3 * (m + p - 1));
      // With fewer microbatches than stages the weight parts do not cover the way back.
      const double least = 3 * m + p - 1;
      if (num_microbatches >= stages) {
        EXPECT_DOUBLE_EQ(seconds(true), least) << stages << " stages, " << num_microbatches << " microbatches";
      } else {
        EXPECT_GE(seconds(true), least);
        EXPECT_LT(seconds(true), seconds(false));
      }
    }
  }
}

TEST(SplitBackward, IsPredictedToTakeNoLonger) {
  for (const auto& [stages, shards, cut] : cuts) {
    for (const std::int64_t batch_size : {2, 4, 16, 64}) {
      RunConfig config = run_of(two_levels(), stages, shards, cut, SplitBackward::off);
      config.train.batch_size = batch_size;
      const std::int64_t ranks = stages - 1 + shards;
      Cluster cluster = cluster_of(ranks);
      // Arithmetic alone: parts read what they share twice, and sums over ranks begin later.
      cluster.memory_bandwidth = 1e15;
      cluster.within_node = cluster.between_nodes = {1e15, 0};
      Plan plan = plan_of(config, ranks);
      const double whole = predict(config, cluster, plan).seconds;
      plan.passes.split_backward = true;
      EXPECT_LE(predict(config, cluster, plan).seconds, whole * (1 + 1e-9)) << stages << " stages, cut at " << cut;
    }
  }
}

TEST(SplitBackward, IsTakenWhereItIsFasterAndFits) {
  RunConfig config = run_of(preset("photon-600m"), 2, 3, "decoder1", SplitBackward::automatic);
  config.train.sequence_length = 2048;
  config.train.batch_size = 64;
  config.parallel.microbatch_size = 16;
  config.train.precision = Precision::bf16;
  Cluster cluster = usual_cluster(4, 4, true);
  EXPECT_TRUE(plan_given(config, cluster).passes.split_backward);
  config.parallel.split_backward = SplitBackward::off;
  const Plan whole = plan_given(config, cluster);
  EXPECT_FALSE(whole.passes.split_backward);
  config.parallel.split_backward = SplitBackward::on;
  const Plan split = plan_given(config, cluster);
  EXPECT_TRUE(split.passes.split_backward);
  EXPECT_LT(predict(config, cluster, split).seconds, predict(config, cluster, whole).seconds);
  const std::string text = timeline_text(split, predict(config, cluster, split), 90, 3);
  for (const char mark : {'0', '3', 'a', 'd', 'A', 'D', '='}) {
    EXPECT_NE(text.substr(0, text.find("0-9 forward")).find(mark), std::string::npos) << mark << "\n" << text;
  }
  // Memory decides before speed.
  cluster.memory_bytes = CostModel(config, cluster, split).memory_bytes() - 1;
  config.parallel.split_backward = SplitBackward::automatic;
  EXPECT_FALSE(plan_given(config, cluster).passes.split_backward);
  config.parallel.split_backward = SplitBackward::on;
  EXPECT_THROW(plan_given(config, cluster), InputError);
  // Nothing is computed again for it, and there is nothing to split in one stage, or with recomputation.
  config.parallel.split_backward = SplitBackward::automatic;
  config.parallel.recompute = Recompute::layers;
  cluster.memory_bytes = std::int64_t{1} << 50;
  EXPECT_FALSE(plan_given(config, cluster).passes.split_backward);
}

TEST(SplitBackward, TheSearchTakesItToo) {
  RunConfig config = run_of(preset("photon-60m"), 1, 1, "", SplitBackward::automatic);
  config.train.sequence_length = 512;
  config.train.batch_size = 1;  // replicas share no sequence
  const Cluster cluster = usual_cluster(4, 4, true);
  for (const SplitBackward split : {SplitBackward::on, SplitBackward::off}) {
    config.parallel.split_backward = split;
    const ParallelConfig found = fastest_layout(config, cluster);
    ASSERT_GT(found.stages, 1);
    EXPECT_EQ(found.split_backward, split);
    const bool named = settings_text(found).find(" --set parallel.split_backward=on") != std::string::npos;
    EXPECT_EQ(named, split == SplitBackward::on);
  }
}

TEST(SplitBackward, IsRefusedWhereItCannotBe) {
  const auto refusal = [](const RunConfig& config) -> std::string {
    try {
      plan_of(config, config.parallel.stages);
    } catch (const InputError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal(run_of(two_levels(), 1, 1, "", SplitBackward::on)),
            "parallel.split_backward is on (parallel.stages is 1: no stage waits for another's gradients) set it to "
            "auto or off");
  RunConfig both = run_of(two_levels(), 2, 1, "", SplitBackward::on);
  EXPECT_EQ(refusal(both), "accepted");
  both.parallel.recompute = Recompute::layers;
  EXPECT_EQ(refusal(both),
            "parallel.split_backward is on (parallel.recompute is layers, and what is computed again is not kept for "
            "later) set it to auto or off");
}

}  // namespace
}  // namespace photon
