#include "partition/decode_plan.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "blueprint/modules.hpp"
#include "blueprint/parameters.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr double never = std::numeric_limits<double>::infinity();

StackConfig stack(std::int64_t layers, std::int64_t heads, std::int64_t kv_heads, std::int64_t ffn) {
  StackConfig s;
  s.layers = layers;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.ffn = ffn;
  return s;
}

// Chunks of 2 and 3: groups of 6 tokens, three level-1 groups in each.
ModelConfig two_levels() {
  ModelConfig model;
  model.vocab_size = 50;
  model.dim = 8;
  model.tokenizer = "tokenizer.model";
  model.levels = {{12, 2, 2, stack(2, 2, 1, 24), stack(3, 2, 2, 20)},
                  {16, 3, 1, stack(1, 4, 4, 30), stack(2, 3, 3, 14)}};
  validate(model);
  return model;
}

Cluster ranks(std::int64_t count, double gib) {
  Cluster cluster;
  cluster.num_ranks = count;
  cluster.ranks_per_node = count;
  cluster.memory_bytes = static_cast<std::int64_t>(gib * 0x1p30);
  cluster.flops = 776e12;
  cluster.memory_bandwidth = 2932e9;
  cluster.op_overhead = 2.4e-6;
  cluster.within_node = {337e9, 10e-6};
  return cluster;
}

TEST(DecodeCost, OpsAreCounted) {
  const ModelConfig model = two_levels();
  Cluster cluster;
  cluster.flops = never;
  cluster.memory_bandwidth = never;
  cluster.op_overhead = 1;
  const DecodeCost cost(model, cluster, Precision::fp32);
  // A layer is eight ops; before a stack stands one product. A chunk: converter, two calls of three layers, two heads
  // of three ops. A level-2 group: converter, three calls of two layers. Encoders: chunker and their layers.
  EXPECT_DOUBLE_EQ(cost.chunk(5).ops, 1 + 2 * 3 * 8 + 2 * 3);
  EXPECT_DOUBLE_EQ(cost.group(2, 5).ops, 1 + 3 * 2 * 8);
  EXPECT_DOUBLE_EQ(cost.encoder(1, 5, 100).ops, 1 + 2 * 8);
  EXPECT_DOUBLE_EQ(cost.encoder(2, 5, 100).ops, 1 + 8);
  const double coarse = 3 * 17 + 9 + 49;
  EXPECT_DOUBLE_EQ(cost.coarse_step(5, 100).total(), coarse);
  EXPECT_DOUBLE_EQ(cost.whole_step(5, 100).total(), coarse + 3 * 55);
  EXPECT_DOUBLE_EQ(cost.roll_out(5, 4, 100).total(), 4 * (9 + 49));
}

// Products of few rows read their weights, more slowly with every row; others take a latency besides, and their own
// rate.
TEST(DecodeCost, SmallProductsHaveCostsOfTheirOwn) {
  const ModelConfig model = two_levels();
  Cluster cluster;
  cluster.flops = never;
  cluster.memory_bandwidth = 1;
  const auto step = [&](std::int64_t rows) {
    return DecodeCost(model, cluster, Precision::bf16).encoder(1, rows, 100);
  };
  const double weights = 2 * (16 * 12 + 2 * (12 * 24 + 12 * 12 + 12 * 48 + 24 * 12));
  const DecodeSeconds plain = step(3);
  cluster.few_rows = 4;
  cluster.few_rows_slowdown = 0.25;
  cluster.product_latency = 7;
  EXPECT_DOUBLE_EQ(step(1).total(), DecodeCost(model, cluster, Precision::bf16).encoder(1, 1, 100).total());
  EXPECT_DOUBLE_EQ(step(3).weights, plain.weights + 2 * 0.25 * weights);
  EXPECT_DOUBLE_EQ(step(3).ops, 0);
  EXPECT_DOUBLE_EQ(step(5).ops, 9 * 7);  // the chunker, and four products in each of two layers
  cluster.flops = 8;
  cluster.memory_bandwidth = never;
  const double flops = 5.0 * weights;  // two a weight and row, in two bytes
  EXPECT_DOUBLE_EQ(step(5).arithmetic, flops / 8);
  cluster.decoding_flops = 4;
  EXPECT_DOUBLE_EQ(step(5).arithmetic, flops / 4);
}

TEST(DecodeCost, ArithmeticIsThatOfTheMatrixProducts) {
  const ModelConfig model = two_levels();
  Cluster cluster;
  cluster.flops = 2;
  cluster.memory_bandwidth = never;
  const DecodeCost cost(model, cluster, Precision::bf16);
  const double n = 5;
  // Decoder 1, width 8, three layers: q, k, v 8x24, o 8x8, gate and up 8x40, down 20x8. The first call has two
  // positions, of which the last layer gives one; the second has one.
  const double all = 8 * 24 + 8 * 8 + 8 * 40 + 20 * 8;
  const double first = 2 * 2 * all + (2 * 8 * 24 + (all - 8 * 24));
  EXPECT_DOUBLE_EQ(cost.chunk(5).arithmetic, n * (12 * 16 + first + 3 * all + 2 * 8 * 50));
  // Encoder 1, width 12, two heads of 6 on one: q, k, v 12x24, o, gate and up 12x48, down 24x12; chunker 16x12.
  EXPECT_DOUBLE_EQ(cost.encoder(1, 5, 100).arithmetic, n * (16 * 12 + 2 * (12 * 24 + 12 * 12 + 12 * 48 + 24 * 12)));
}

TEST(DecodeCost, OneRowReadsWeightsAndCachesOnce) {
  const ModelConfig model = two_levels();
  Cluster cluster;
  cluster.flops = never;
  cluster.memory_bandwidth = 1;
  const DecodeCost cost(model, cluster, Precision::bf16);
  const double n = 1;
  // Encoder 1 at 100 tokens: 50 units of keys and values of one head of 6, in two layers; products move their weights
  // and rows; two norms of 4 rows of 12 and SwiGLU's 3 of 24 a layer.
  const double product = 16 * 12 + 16 + 12 + 2 * ((12 * 24 + 36) + (12 * 12 + 24) + (12 * 48 + 60) + (24 * 12 + 36));
  const DecodeSeconds one = cost.encoder(1, 1, 100);
  EXPECT_DOUBLE_EQ(one.weights, 2 * product);
  EXPECT_DOUBLE_EQ(one.caches, 2 * 2 * (n * 12 * 50 + 12 + 2 * 12));
  EXPECT_DOUBLE_EQ(one.activations, 2 * 2 * (2 * 4 * 12 + 3 * 24));
  // A window bounds what is read.
  ModelConfig windowed = model;
  windowed.levels[0].encoder.window = 7;
  EXPECT_DOUBLE_EQ(DecodeCost(windowed, cluster, Precision::bf16).encoder(1, 1, 100).caches,
                   2 * 2 * (12 * 7 + 12 + 2 * 12));
}

TEST(DecodeReserve, ShrinksWhereMemoryIsShort) {
  const ModelConfig model = two_levels();
  constexpr std::int64_t plenty = std::int64_t{1} << 40;
  const DecodeReserve most = decode_reserve(model, 2, true, plenty);
  EXPECT_EQ(most.prefill_tokens, device_prefill_tokens);
  EXPECT_EQ(most.max_chunks, device_max_chunks);
  EXPECT_GT(most.bytes, decode_reserve(model, 2, false, plenty).bytes);
  DecodeReserve before = most;
  for (std::int64_t room = plenty; room > 0; room /= 3) {
    const DecodeReserve now = decode_reserve(model, 2, true, room);
    EXPECT_LE(now.prefill_tokens, before.prefill_tokens);
    EXPECT_LE(now.max_chunks, before.max_chunks);
    EXPECT_LE(now.bytes, before.bytes);
    if (now.prefill_tokens > 1024 && now.max_chunks > 512) {
      EXPECT_LE(now.bytes, room / 4);
    }
    before = now;
  }
  EXPECT_EQ(before.prefill_tokens, 1024);
  EXPECT_EQ(before.max_chunks, 512);
}

TEST(DecodeMemory, CountsWhatRanksHold) {
  const ModelConfig model = two_levels();
  const auto of = [&](DecodeRole role, std::int64_t cohorts) {
    return decode_memory(model, Precision::fp32, DecodeMode::hiergen, role, 10, 60, cohorts, std::int64_t{1} << 36);
  };
  const DecodeMemory whole = of(DecodeRole::whole, 1);
  // 10 units of 16, keys and values of one layer; 30 of 6 in two layers.
  EXPECT_EQ(whole.top_cache, 10 * 4 * 2 * 16 * 10);
  EXPECT_EQ(whole.lower_caches, 10 * 4 * 2 * 2 * 6 * 30);
  // Decoder 1 has 2 + 2 - 1 positions of 8 in three layers, decoder 2 1 + 3 - 1 of 12 in two.
  EXPECT_EQ(whole.local_caches, 10 * 4 * 2 * (3 * 8 * 3 + 2 * 12 * 3));
  EXPECT_EQ(whole.weights, 4 * flat_size(parameters(model)));
  EXPECT_EQ(whole.step, 0);
  EXPECT_EQ(whole.reserve, 0);
  const DecodeMemory coarse = of(DecodeRole::coarse, 2);
  const DecodeMemory shard = of(DecodeRole::shard, 2);
  EXPECT_EQ(coarse.local_caches, 10 * 4 * 2 * 2 * 12 * 3);
  EXPECT_EQ(shard.top_cache + shard.lower_caches, 0);
  EXPECT_EQ(shard.local_caches, 5 * 4 * 2 * 3 * 8 * 3);
  EXPECT_LT(coarse.weights, whole.weights);
  EXPECT_LT(shard.weights, whole.weights);
  EXPECT_GT(coarse.weights + shard.weights, whole.weights);  // the embedding lies on both
  EXPECT_EQ(decode_capacity(model, 7), 12);
  EXPECT_EQ(decode_capacity(model, 64), 72);  // in eighths of 64, then whole groups
  for (std::int64_t tokens = 1; tokens < 3000; tokens += 7) {
    const std::int64_t capacity = decode_capacity(model, tokens);
    EXPECT_GE(capacity, tokens);
    EXPECT_EQ(capacity % 6, 0);
    EXPECT_LE(capacity, tokens + tokens / 8 + 2 * 6);
  }
}

TEST(DecodePlan, TriesEveryDivisionOfTheRanks) {
  DecodeAsk ask;
  const ModelConfig model = preset("photon-600m");
  const DecodePlan plan = plan_decode(model, ranks(4, 78), ask);
  ASSERT_EQ(plan.layouts.size(), 3U);
  EXPECT_EQ(layout_text(plan.layouts[0].layout), "4 replicas");
  EXPECT_EQ(layout_text(plan.layouts[1].layout), "2 x (coarse rank + 1 shard)");
  EXPECT_EQ(layout_text(plan.layouts[2].layout), "coarse rank + 3 shards");
  EXPECT_EQ(plan.chosen, 0U);  // caches and weights fit, so nobody need wait for messages
  for (const DecodeForecast& layout : plan.layouts) {
    ASSERT_TRUE(layout.possible());
    EXPECT_GT(layout.tokens_per_second, layout.end_to_end_tokens_per_second);
    EXPECT_GT(layout.end_to_end_tokens_per_second, 0);
    EXPECT_LE(layout.rows, layout.most_rows);
    for (const DecodeRank& rank : layout.ranks) {
      EXPECT_LE(rank.memory.total(), ranks(4, 78).memory_bytes);
      EXPECT_LE(rank.busy.total(), layout.step_seconds * (1 + 1e-12));
    }
    // One more does not fit.
    ask.shards = layout.layout.shards;
    ask.batch = layout.over_all(layout.most_rows);
    EXPECT_NO_THROW(plan_decode(model, ranks(4, 78), ask));
    ++ask.batch;
    EXPECT_THROW(plan_decode(model, ranks(4, 78), ask), InputError);
    ask = {};
  }
  // Replicas do not know of each other.
  const DecodePlan one = plan_decode(model, ranks(1, 78), ask);
  EXPECT_DOUBLE_EQ(4 * one.best().tokens_per_second, plan.best().tokens_per_second);
}

TEST(DecodePlan, CohortsKeepBothSidesBusy) {
  const ModelConfig model = preset("photon-600m");
  DecodeAsk ask;
  ask.shards = 3;
  ask.batch = 4096;
  const Cluster cluster = ranks(4, 78);
  const DecodeForecast layout = plan_decode(model, cluster, ask).best();
  const DecodeCost cost(model, cluster, Precision::bf16);
  const double a = cost.coarse_step(2048, 256).total();
  const double s = 4 * cost.chunk(683).total();  // 2,048 rows on three shards
  // Four chunks there and back: c(1) of 1,536 values and four tokens a row; once 88 + 64 bytes.
  const double bytes = 2048 * (4 * (2 * 1536 + 16) + 88 + 64);
  const double m = 8 * 10e-6 + bytes / 337e9;
  EXPECT_NEAR(layout.message_seconds, m, 1e-12);
  EXPECT_NEAR(layout.step_seconds, std::max({2 * a, 2 * s, a + s + m}), 1e-12);
  EXPECT_NEAR(layout.tokens_per_second, 4096 * 16 / layout.step_seconds, 1e-3);
  ask.mode = DecodeMode::recgen;
  // RecGen's cohorts roll out and have their chunks decoded side by side too, all chunks of a group in one call.
  const DecodeForecast rolled = plan_decode(model, cluster, ask).best();
  const double roll = cost.roll_out(2048, 1, 256).total();
  const double chunks = cost.chunk(4 * 683).total();
  EXPECT_NEAR(rolled.step_seconds, std::max({2 * roll, 2 * chunks, roll + chunks + rolled.message_seconds}), 1e-12);
}

TEST(DecodePlan, DividesWhatDoesNotFit) {
  // 14 GB of weights, and what steps take, on ranks of 16 GiB: nobody holds them all, a coarse rank and its shards do.
  const DecodePlan plan = plan_decode(preset("photon-7b"), ranks(4, 16), {});
  EXPECT_FALSE(plan.layouts[0].possible());
  EXPECT_NE(plan.layouts[0].problem.find("GiB on a rank"), std::string::npos) << plan.layouts[0].problem;
  EXPECT_GT(plan.best().layout.shards, 0);
  const auto refusal = [](const ModelConfig& model, const Cluster& cluster, const DecodeAsk& ask) {
    try {
      plan_decode(model, cluster, ask);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto holds = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  DecodeAsk ask;
  holds(refusal(preset("photon-7b"), ranks(4, 10), ask), "use shorter sequences, a smaller model");
  ask.batch = 1 << 20;
  holds(refusal(preset("photon-600m"), ranks(4, 78), ask), "the nearest that fits is --batch ");
  ask = {};
  ask.shards = 4;
  holds(refusal(preset("photon-600m"), ranks(4, 78), ask), "shards 3");
  ask.shards = 3;
  holds(refusal(preset("vanilla-600m"), ranks(4, 78), ask), "has no decoder shards");
  ask = {};
  ask.mode = DecodeMode::recgen;
  holds(refusal(preset("vanilla-600m"), ranks(1, 78), ask), "RecGen cannot be planned");
  ask = {};
  ask.new_tokens = 0;
  holds(refusal(preset("photon-600m"), ranks(1, 78), ask), "nothing would be decoded");
  ask = {};
  EXPECT_EQ(plan_decode(preset("vanilla-600m"), ranks(4, 78), ask).layouts.size(), 1U);
  EXPECT_EQ(plan_decode(preset("vanilla-600m"), ranks(4, 78), ask).reason, "the only one that fits");
}

TEST(DecodePlan, MoreMemoryNeverHoldsLess) {
  std::int64_t before = 0;
  for (double gib = 8; gib < 200; gib *= 1.3) {
    const DecodePlan plan = plan_decode(preset("photon-600m"), ranks(2, gib), {});
    EXPECT_GE(plan.layouts[0].most_rows, before);
    before = plan.layouts[0].most_rows;
  }
  EXPECT_GT(before, 1000);
}

}  // namespace
}  // namespace photon
