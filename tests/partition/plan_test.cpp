#include "partition/plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <tuple>

#include "blueprint/flops.hpp"
#include "partition/schedule.hpp"
#include "partition/sharing.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

RunConfig config_of(std::int64_t batch_size, std::int64_t microbatch_size) {
  RunConfig config;
  config.train.batch_size = batch_size;
  config.parallel.microbatch_size = microbatch_size;
  return config;
}

std::int64_t thousand_each(std::int64_t sequences) {
  return 1000 * sequences;
}

std::string refusal(const RunConfig& config, std::int64_t num_ranks) {
  try {
    make_plan(config, num_ranks, 1'000'000, thousand_each);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Plan, EverySequenceBelongsToOneMicrobatchOfOneReplica) {
  for (const auto& [batch, ranks, micro] : {std::tuple{12, 3, 2}, {6, 1, 1}, {6, 2, 3}, {5, 5, 1}}) {
    const Plan plan = make_plan(config_of(batch, micro), ranks, 0, thousand_each);
    std::set<std::int64_t> seen;
    std::int64_t previous = -1;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      for (std::int64_t i = 0; i < plan.num_microbatches(); ++i) {
        const std::int64_t first = plan.first_sequence(rank, i);
        EXPECT_EQ(first, previous + 1);  // contiguous slices in rank order
        for (std::int64_t k = 0; k < plan.microbatch_size; ++k) EXPECT_TRUE(seen.insert(first + k).second);
        previous = first + plan.microbatch_size - 1;
      }
    }
    EXPECT_EQ(static_cast<std::int64_t>(seen.size()), batch);
    EXPECT_EQ(*seen.rbegin(), batch - 1);
  }
}

TEST(Plan, ChoosesTheLargestDivisorThatFits) {
  EXPECT_EQ(choose_microbatch_size(12, 100, 12'000, thousand_each), 12);
  EXPECT_EQ(choose_microbatch_size(12, 100, 11'999, thousand_each), 6);
  EXPECT_EQ(choose_microbatch_size(12, 100, 3'500, thousand_each), 3);
  EXPECT_EQ(choose_microbatch_size(12, 100, 10, thousand_each), 1);
  EXPECT_EQ(choose_microbatch_size(7, 100, 6'000, thousand_each), 1);
  EXPECT_EQ(make_plan(config_of(24, 0), 2, 6'000, thousand_each).microbatch_size, 6);
}

TEST(Plan, RefusesWhatDoesNotDivide) {
  EXPECT_EQ(
      refusal(config_of(7, 0), 2),
      "train.batch_size 7 cannot be split over 2 ranks (1 sequences would be left over) set train.batch_size to 6 or "
      "8, or start another number of ranks");
  EXPECT_NE(refusal(config_of(2, 0), 4).find("set train.batch_size to 4,"), std::string::npos);
  EXPECT_NE(refusal(config_of(12, 4), 2).find("parallel.microbatch_size 4 does not divide the 6 sequences"),
            std::string::npos);
  EXPECT_EQ(refusal(config_of(12, 3), 2), "accepted");
}

// Two levels: encoder1, encoder2, decoder2, decoder1.
RunConfig pipeline(std::int64_t stages, std::int64_t shards, const std::string& cut) {
  RunConfig config = config_of(12, 2);
  LevelConfig level;
  level.dim = 16;
  level.chunk = 4;
  level.prefix = 2;
  for (StackConfig* stack : {&level.encoder, &level.decoder}) {
    stack->layers = 1;
    stack->heads = stack->kv_heads = 2;
    stack->ffn = 32;
  }
  config.model.vocab_size = 259;
  config.model.dim = 16;
  config.model.levels = {level, level};
  config.train.sequence_length = 24;  // one group and a half: two groups
  config.parallel.stages = stages;
  config.parallel.shards = shards;
  config.parallel.cut = cut;
  return config;
}

RunConfig with_layers(RunConfig config, std::int64_t layers) {
  for (LevelConfig& level : config.model.levels) level.encoder.layers = level.decoder.layers = layers;
  return config;
}

RunConfig vanilla(std::int64_t stages, std::int64_t shards, const std::string& cut, std::int64_t layers) {
  RunConfig config = pipeline(stages, shards, cut);
  config.model.type = ModelType::vanilla;
  config.model.levels.clear();
  config.model.stack.layers = layers;
  config.model.stack.heads = config.model.stack.kv_heads = 2;
  config.model.stack.ffn = 32;
  return config;
}

std::string crossings_text(const RunConfig& config, std::int64_t ranks) {
  std::string text;
  for (const Crossing& c : make_plan(config, ranks, 0, thousand_each).crossings) {
    text += fmt::format("{} {}-{}{}; ", c.tensor.str(), c.from, c.to, c.returns ? "" : " only");
  }
  return text;
}

TEST(Plan, RefusesLayoutsThatCannotBe) {
  const auto has = [](const RunConfig& config, std::int64_t ranks, const std::string& text) {
    const std::string message = refusal(config, ranks);
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  has(pipeline(1, 3, ""), 3, "parallel.shards is 3 and parallel.stages is 1 (shards share the groups of decoders");
  has(pipeline(5, 1, ""), 5,
      "parallel.stages is 5 (the model has 4 layers: encoder1.0, encoder2.0, decoder2.0, decoder1.0)");
  has(pipeline(1, 1, "decoder2"), 1, "parallel.cut is 'decoder2' (parallel.stages is 1: there is nothing to cut)");
  has(pipeline(2, 1, "decoder3"), 2, "(the model has no layer 'decoder3')");
  has(pipeline(3, 1, "decoder1,decoder2"), 3, "('decoder2' begins no later stage)");
  has(pipeline(2, 1, "encoder1"), 2, "('encoder1' begins no later stage)");
  has(pipeline(3, 1, "decoder2"), 3, "(parallel.stages is 3, so 2 layers begin a stage)");
  has(pipeline(2, 3, "encoder2"), 4, "(the last stage begins with encoder2, and shards share the groups");
  has(pipeline(2, 3, ""), 6, "the job has 6 ranks (a replica of parallel.stages 2 and parallel.shards 3 is 4 ranks) ");
  has(pipeline(2, 3, ""), 6, "start 4 or 8 ranks");
  has(pipeline(2, 5, ""), 6, "parallel.shards is 5, and a microbatch has 4 groups");
  RunConfig lookback = pipeline(2, 3, "");
  lookback.model.lookback = 2;
  has(lookback, 4, "parallel.shards is 3, and a microbatch has 2 sequences");
  has(with_layers(pipeline(2, 1, "encoder1.3"), 3), 2, "(the model has no layer 'encoder1.3') name the layers that");
  has(with_layers(pipeline(2, 1, "encoder1.x"), 3), 2, "(the model has no layer 'encoder1.x')");
  has(with_layers(pipeline(2, 1, "encoder1.0"), 3), 2, "('encoder1.0' begins no later stage)");
  has(with_layers(pipeline(2, 3, "encoder2.2"), 3), 4, "(the last stage begins with encoder2.2, and shards share");
  has(with_layers(pipeline(13, 1, ""), 3), 13, "(the model has 12 layers: encoder1.0-2, encoder2.0-2, decoder2.0-2, ");
  has(vanilla(2, 2, "", 4), 3,
      "parallel.shards is 2 (shards share the groups of decoders, and a vanilla model has none)");
  has(vanilla(2, 1, "layer.4", 4), 2, "(the model has no layer 'layer.4')");
  has(vanilla(5, 1, "", 4), 5, "(the model has 4 layers: layer.0-3) set it to at most 4");
  RunConfig data = config_of(8, 0);
  data.parallel.data = 4;
  has(data, 1, "parallel.data is 4, but the job has 1 rank ");
  EXPECT_EQ(refusal(data, 4), "accepted");
}

TEST(Plan, CutsTheChainAndSaysWhatCrosses) {
  const Plan plan = make_plan(pipeline(3, 2, "decoder2,decoder1"), 8, 0, thousand_each);
  EXPECT_EQ(plan.replicas, 2);
  EXPECT_EQ(plan.ranks_per_replica(), 4);
  ASSERT_EQ(plan.layout.size(), 3U);
  EXPECT_EQ(plan.layout[0].layers, (LayerRange{0, 2}));
  EXPECT_EQ(plan.layout[1].layers, (LayerRange{2, 3}));
  EXPECT_EQ(plan.layout[2].layers, (LayerRange{3, 4}));
  EXPECT_EQ(plan.layout[2].shards, 2);
  std::string text;
  for (const Crossing& c : plan.crossings) text += fmt::format("{} {}-{}; ", c.tensor.str(), c.from, c.to);
  EXPECT_EQ(text, "X(1) 0-1; c(2) 0-1; Y(1) 1-2; ");
  for (std::int64_t rank = 0; rank < 8; ++rank) EXPECT_EQ(plan.rank_of(plan.role(rank)), rank);
  EXPECT_EQ(plan.role(7), (RankRole{1, 2, 1}));
  EXPECT_EQ(plan.groups(5, 2, 3), (GroupRange{0, 6}));
  EXPECT_EQ(plan.groups(6, 1, 3), (GroupRange{0, 1}));
  EXPECT_EQ(plan.groups(7, 1, 3), (GroupRange{1, 2}));
}

TEST(Plan, CutsInsideStacks) {
  // Layers 0-2 encoder 1, 3-5 encoder 2, 6-8 decoder 2, 9-11 decoder 1.
  const RunConfig config = with_layers(pipeline(4, 2, "encoder2.1,decoder2.2,decoder1.1"), 3);
  const Plan plan = make_plan(config, 5, 0, thousand_each);
  const LayerRange expected[] = {{0, 4}, {4, 8}, {8, 10}, {10, 12}};
  for (std::size_t s = 0; s < 4; ++s) EXPECT_EQ(plan.layout[s].layers, expected[s]);
  EXPECT_EQ(part_names(config.model, {4, 8}), (std::vector<std::string>{"encoder2.1-2", "decoder2.0-1"}));
  EXPECT_EQ(part_names(config.model, {8, 12}), (std::vector<std::string>{"decoder2.2", "decoder1"}));
  // The end of decoder 2 only measures how far Y(1) is from X(1).
  EXPECT_EQ(crossings_text(config, 5), "X(1) 0-1; X(1) 0-2 only; h(4) 0-1; h(8) 1-2; h(10) 2-3; ");
  RunConfig both = config;
  both.train.rec_stop_gradient = false;
  EXPECT_EQ(crossings_text(both, 5), "X(1) 0-1; X(1) 0-2; h(4) 0-1; h(8) 1-2; h(10) 2-3; ");
  EXPECT_EQ(plan.embedding_stages, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(plan.embedding_holders(), 2);
  RunConfig tied = config;
  tied.model.tie_embeddings = true;
  EXPECT_EQ(make_plan(tied, 5, 0, thousand_each).embedding_stages, (std::vector<std::int64_t>{0, 2, 3}));
  EXPECT_EQ(make_plan(tied, 5, 0, thousand_each).embedding_holders(), 4);

  EXPECT_EQ(crossings_text(vanilla(3, 1, "layer.1,layer.3", 4), 3), "h(1) 0-1; h(3) 1-2; ");
  EXPECT_TRUE(make_plan(vanilla(3, 1, "", 4), 3, 0, thousand_each).embedding_stages.empty());
}

TEST(Plan, NamesOfLayersAreFoundAgain) {
  for (const RunConfig& config : {with_layers(pipeline(1, 1, ""), 3), vanilla(1, 1, "", 4)}) {
    for (std::int64_t layer = 0; layer < all_layers(config.model).end; ++layer) {
      EXPECT_EQ(find_layer(config.model, layer_name(config.model, layer)), layer);
    }
  }
  const ModelConfig model = with_layers(pipeline(1, 1, ""), 3).model;
  EXPECT_EQ(layer_name(model, 6), "decoder2");
  EXPECT_EQ(layer_name(model, 11), "decoder1.2");
  EXPECT_EQ(find_layer(model, "decoder2.0"), 6);
  for (const char* none : {"decoder2.", "decoder2.3", "decoder2.-1", "decoder2.1 ", "decoder", ""}) {
    EXPECT_EQ(find_layer(model, none), std::nullopt) << none;
  }
}

// By exhaustion.
TEST(Plan, NoCutBetweenLayersIsBetterBalanced) {
  const RunConfig config = with_layers(pipeline(3, 2, ""), 3);
  const std::vector<double> flops = layer_flops(config.model, config.train.sequence_length);
  const auto work = [&](std::int64_t from, std::int64_t to) {
    return std::accumulate(flops.begin() + from, flops.begin() + to, 0.0);
  };
  const auto most = [&](std::int64_t a, std::int64_t b, double shards) {
    return std::max({work(0, a), work(a, b), work(b, 12) / shards});
  };
  for (const std::int64_t shards : {1, 2}) {
    const auto starts = balanced_cut(config, 3, shards, CutPoints::layers);
    ASSERT_TRUE(starts.has_value());
    const auto share = static_cast<double>(shards);
    for (std::int64_t b = shards > 1 ? 6 : 2; b < 12; ++b) {
      for (std::int64_t a = 1; a < b; ++a) EXPECT_LE((most((*starts)[0], (*starts)[1], share)), most(a, b, share) + 1);
    }
  }
  EXPECT_EQ(balanced_cut(config, 5, 1, CutPoints::modules), std::nullopt);
  EXPECT_EQ(cut_stages(with_layers(pipeline(5, 1, ""), 3)).size(), 5U);
}

TEST(Plan, ShardsTakeEveryGroupOnce) {
  for (const std::int64_t lookback : {0, 3}) {
    RunConfig config = pipeline(2, 3, "decoder2");
    config.train.batch_size = 5;
    config.parallel.microbatch_size = 5;
    config.model.lookback = lookback;
    const Plan plan = make_plan(config, 4, 0, thousand_each);
    std::int64_t next = 0;
    for (std::int64_t rank = 1; rank < 4; ++rank) {
      const GroupRange range = plan.groups(rank, 5, 2);
      EXPECT_EQ(range.begin, next);
      EXPECT_GE(range.count, 2);
      if (lookback > 0) {
        EXPECT_EQ(range.begin % 2 + range.count % 2, 0);
      }
      next += range.count;
    }
    EXPECT_EQ(next, 10);
  }
}

TEST(Plan, BalancesTheStagesWithoutACut) {
  for (const std::int64_t shards : {1, 2, 8}) {
    const RunConfig config = pipeline(2, shards, "");
    const std::vector<double> flops = layer_flops(config.model, config.train.sequence_length);
    const auto most_work = [&](std::int64_t cut) {
      const auto middle = flops.begin() + cut;
      return std::max(std::accumulate(flops.begin(), middle, 0.0),
                      std::accumulate(middle, flops.end(), 0.0) / static_cast<double>(shards));
    };
    const std::int64_t chosen = cut_stages(config)[1].layers.begin;
    for (std::int64_t cut = shards > 1 ? 2 : 1; cut < 4; ++cut) {
      EXPECT_LE(most_work(chosen), most_work(cut)) << shards << " shards, cut at " << cut;
    }
  }
}

TEST(Schedule, PassesMessagesInTheOrderOfOneForwardOneBackward) {
  const Plan plan = make_plan(pipeline(2, 2, "decoder1"), 3, 0, thousand_each);
  const std::vector<Program> programs = schedule(plan, 2, {});
  std::vector<std::string> first;
  for (const Instruction& i : programs[0]) first.push_back(i.str());
  const std::vector<std::string> expected{"forward 0",
                                          "send Y(1) 0 to rank 1",
                                          "send Y(1) 0 to rank 2",
                                          "forward 1",
                                          "send Y(1) 1 to rank 1",
                                          "send Y(1) 1 to rank 2",
                                          "receive dY(1) 0 from rank 1",
                                          "receive dY(1) 0 from rank 2",
                                          "backward 0",
                                          "receive dY(1) 1 from rank 1",
                                          "receive dY(1) 1 from rank 2",
                                          "backward 1",
                                          "all_reduce embedding",
                                          "all_reduce",
                                          "wait",
                                          "clip_norm",
                                          "step"};
  EXPECT_EQ(first, expected);
  std::vector<std::string> shard;
  for (const Instruction& i : programs[2]) shard.push_back(i.str());
  EXPECT_EQ(shard, (std::vector<std::string>{"receive Y(1) 0 from rank 0", "forward 0", "backward 0",
                                             "send dY(1) 0 to rank 0", "receive Y(1) 1 from rank 0", "forward 1",
                                             "backward 1 decoder1", "send dY(1) 1 to rank 0", "all_reduce decoder1",
                                             "all_reduce embedding", "all_reduce", "wait", "clip_norm", "step"}));
}

TEST(Schedule, BeginsTheSumOfAModuleWhenItsLastBackwardIsDone) {
  RunConfig config = pipeline(2, 2, "decoder2");
  config.parallel.zero = 1;
  const Plan plan = make_plan(config, 3, 0, thousand_each);
  std::vector<std::string> texts;
  for (const Instruction& i : program_of(plan, 1, 1, {.evaluate = false, .save = true})) texts.push_back(i.str());
  EXPECT_EQ(texts,
            (std::vector<std::string>{
                "receive X(1) 0 from rank 0", "receive c(2) 0 from rank 0", "forward 0", "backward 0 decoder1",
                "reduce_scatter decoder1", "backward 0 decoder2", "send dX(1) 0 to rank 0", "send dc(2) 0 to rank 0",
                "reduce_scatter decoder2", "reduce_scatter embedding", "all_reduce", "wait", "clip_norm", "step",
                "all_gather decoder2", "all_gather decoder1", "all_gather embedding", "wait", "save"}));
}

// The holders of a tensor divide it: everything is owned by one of them.
TEST(Sharing, EveryElementHasOneOwner) {
  for (const auto& [stages, shards, cut, ranks] :
       {std::tuple{1, 1, "", 5}, {2, 3, "decoder1.1", 8}, {3, 2, "encoder1.1,decoder1.1", 12}}) {
    RunConfig config = with_layers(pipeline(stages, shards, cut), 2);
    config.train.batch_size = 60;
    config.model.tie_embeddings = true;
    const Plan plan = make_plan(config, ranks, 0, thousand_each);
    std::map<std::string, std::vector<int>> owners;  // of each element of each tensor
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const std::vector<ParameterSpec> specs = hosted_parameters(config.model, plan.stage_of(rank).layers);
      const std::vector<Bucket> buckets = buckets_of(config.model, plan, rank, specs);
      std::int64_t elements = 0;
      for (const Bucket& bucket : buckets) elements += bucket.num_elements();
      EXPECT_EQ(elements, flat_size(specs));
      for (const FlatRange& range : owned_ranges(buckets)) {
        for (const ParameterSpec& spec : specs) {
          std::vector<int>& tensor = owners[spec.name];
          tensor.resize(static_cast<std::size_t>(spec.numel()));
          for (std::int64_t i = std::max(spec.offset, range.begin);
               i < std::min(spec.offset + spec.numel(), range.end()); ++i) {
            ++tensor[static_cast<std::size_t>(i - spec.offset)];
          }
        }
      }
    }
    EXPECT_EQ(owners.size(), parameters(config.model).size());
    for (const auto& [name, tensor] : owners) {
      EXPECT_EQ(std::count(tensor.begin(), tensor.end(), 1), static_cast<std::int64_t>(tensor.size())) << name;
    }
  }
}

// Every send has its receive: the same tensor and microbatch, once.
TEST(Schedule, EveryMessageHasBothEnds) {
  for (const auto& [stages, shards, cut] : {std::tuple{2, 1, "encoder2"},
                                            {4, 2, ""},
                                            {3, 3, "encoder2,decoder2"},
                                            {4, 2, "encoder1.1,decoder2.1,decoder1.1"}}) {
    const Plan plan =
        make_plan(with_layers(pipeline(stages, shards, cut), 2), 2 * (stages - 1 + shards), 0, thousand_each);
    std::multiset<std::string> sent, received;
    const std::vector<Program> programs = schedule(plan, 3, {});
    for (std::size_t rank = 0; rank < programs.size(); ++rank) {
      for (const Instruction& i : programs[rank]) {
        const std::string what = fmt::format("{} {}", i.tensor.str(), i.microbatch);
        if (i.op == Op::send) sent.insert(fmt::format("{} from {} to {}", what, rank, i.peer));
        if (i.op == Op::receive) received.insert(fmt::format("{} from {} to {}", what, i.peer, rank));
      }
    }
    EXPECT_FALSE(sent.empty());
    EXPECT_EQ(sent, received);
  }
}

TEST(Schedule, GivesEveryReplicaTheSameProgram) {
  RunConfig config = pipeline(1, 1, "");
  config.model.levels.pop_back();
  const Plan plan = make_plan(config, 3, 0, thousand_each);
  const std::vector<Program> programs = schedule(plan, plan.num_microbatches(), {.evaluate = true, .save = true});
  ASSERT_EQ(programs.size(), 3U);
  std::vector<std::string> texts;
  for (const Instruction& i : programs.front()) texts.push_back(i.str());
  const std::vector<std::string> expected{"forward 0",
                                          "backward 0",
                                          "forward 1",
                                          "backward 1 decoder1",
                                          "all_reduce decoder1",
                                          "backward 1 encoder1",
                                          "all_reduce encoder1",
                                          "all_reduce",
                                          "wait",
                                          "clip_norm",
                                          "step",
                                          "evaluate",
                                          "save"};
  EXPECT_EQ(texts, expected);
  for (const Program& program : programs) EXPECT_TRUE(program == programs.front());
}

TEST(Schedule, LeavesOutWhatIsNotDue) {
  const Plan plan = make_plan(config_of(2, 2), 1, 0, thousand_each);
  const Program program = schedule(plan, 1, {}).front();
  ASSERT_EQ(program.size(), 5U);
  EXPECT_EQ(program.back().op, Op::step);
}

}  // namespace
}  // namespace photon
