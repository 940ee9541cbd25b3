// Incremental decoding against the training forward, and RecGen against the specification's words.
#include "model/incremental.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/linear.hpp"
#include "model/photon_model.hpp"
#include "reference.hpp"
#include "shapes.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::NamedConfig;
using testing::random_model;
using testing::ReferenceModel;
using testing::TokenBatch;

constexpr double cache_tolerance = 1e-4;  // the specification's

// One group of every row with the tokens given: row i's logits [group_tokens, V].
std::vector<std::vector<float>> forced_step(IncrementalDecoder& decoder, const std::vector<std::int64_t>& slots,
                                            const std::vector<const std::int32_t*>& rows, std::int64_t vocab) {
  const auto n = static_cast<std::int64_t>(slots.size());
  const std::int64_t group = decoder.group_tokens();
  std::vector<std::int32_t> forced;
  for (const std::int32_t* const row : rows) forced.insert(forced.end(), row, row + group);
  const Tensor logits(Space::host, DType::f32, {n, group, vocab});
  const std::vector<RowDraw> draws(slots.size());
  decoder.watch_logits(logits);
  decoder.step_group({slots, forced, draws});
  EXPECT_EQ(decoder.take_step().tokens, forced);
  std::vector<std::vector<float>> result;
  for (std::int64_t i = 0; i < n; ++i) {
    const float* const row = logits.host<float>() + i * group * vocab;
    result.emplace_back(row, row + group * vocab);
  }
  return result;
}

// Teacher-forced logits [T, V] of one row by the training forward.
std::vector<float> forward_logits(Model& model, const Context& ctx, const std::int32_t* tokens, std::int64_t length) {
  const Tensor hidden = model.hidden(ctx, {host_view(tokens, {1, length}), {}});
  Tensor logits(Space::host, DType::f32, {length, model.config().vocab_size});
  linear_forward(ctx, hidden.view().merge(0), model.head_weight(), logits);
  return {logits.host<float>(), logits.host<float>() + logits.numel()};
}

// Logits of tokens prompt .. end of each row, decoded incrementally with forced tokens; row i sits in slots[i].
std::vector<std::vector<float>> incremental_logits(Model& model, const Context& ctx, const TokenBatch& tokens,
                                                   const std::vector<std::int64_t>& row_ids, std::int64_t prompt,
                                                   std::int64_t num_slots) {
  const auto decoder = make_incremental_decoder(model, ctx, num_slots, tokens.length);
  std::vector<std::int64_t> slots;
  std::vector<std::span<const std::int32_t>> prompts;
  for (std::size_t i = 0; i < row_ids.size(); ++i) {
    slots.push_back(num_slots - 1 - static_cast<std::int64_t>(i));
    prompts.emplace_back(tokens.ids.data() + row_ids[i] * tokens.length, static_cast<std::size_t>(prompt));
  }
  decoder->prefill(slots, prompts);
  std::vector<std::vector<float>> logits(row_ids.size());
  for (std::int64_t at = prompt; at < tokens.length; at += decoder->group_tokens()) {
    std::vector<const std::int32_t*> rows;
    for (const std::int64_t id : row_ids) rows.push_back(tokens.ids.data() + id * tokens.length + at);
    const auto group = forced_step(*decoder, slots, rows, model.config().vocab_size);
    for (std::size_t i = 0; i < row_ids.size(); ++i) {
      logits[i].insert(logits[i].end(), group[i].begin(), group[i].end());
      EXPECT_EQ(decoder->length(slots[i]), at + decoder->group_tokens());
    }
  }
  return logits;
}

class Incremental : public ::testing::TestWithParam<NamedConfig> {
 protected:
  const ModelConfig& config() const { return GetParam().config; }
};
INSTANTIATE_TEST_SUITE_P(Shapes, Incremental, ::testing::ValuesIn(testing::all_shapes()),
                         [](const auto& shape) { return shape.param.name; });

TEST_P(Incremental, HierGenEqualsTheTrainingForward) {
  const auto model = random_model(config(), 21);
  const std::int64_t group = config().group_tokens();
  const TokenBatch tokens(2, 6 * std::max<std::int64_t>(group, 4), config().vocab_size, 22);
  for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
    Context ctx;
    ctx.numerics = numerics;
    for (const std::int64_t prompt : {std::int64_t{0}, group, 4 * group}) {
      const auto logits = incremental_logits(*model, ctx, tokens, {0, 1}, prompt, 3);
      for (std::int64_t b = 0; b < 2; ++b) {
        const auto expected = forward_logits(*model, ctx, tokens.ids.data() + b * tokens.length, tokens.length);
        const std::int64_t skip = prompt * config().vocab_size;
        ASSERT_EQ(static_cast<std::int64_t>(logits[static_cast<std::size_t>(b)].size()),
                  static_cast<std::int64_t>(expected.size()) - skip);
        EXPECT_CLOSE(logits[static_cast<std::size_t>(b)].data(), expected.data() + skip,
                     static_cast<std::int64_t>(expected.size()) - skip, cache_tolerance);
      }
    }
  }
}

TEST_P(Incremental, ARowsBitsDoNotDependOnItsNeighbours) {
  const auto model = random_model(config(), 23);
  const std::int64_t group = config().group_tokens();
  const TokenBatch tokens(5, 4 * std::max<std::int64_t>(group, 4), config().vocab_size, 24);
  Context ctx;
  ctx.numerics = Numerics::deterministic;
  for (const std::int64_t prompt : {std::int64_t{0}, 2 * group}) {
    const auto alone = incremental_logits(*model, ctx, tokens, {2}, prompt, 1);
    const auto among = incremental_logits(*model, ctx, tokens, {4, 2, 0, 1, 3}, prompt, 7);
    ASSERT_EQ(alone[0].size(), among[1].size());
    EXPECT_EQ(std::memcmp(alone[0].data(), among[1].data(), alone[0].size() * sizeof(float)), 0);
  }
}

TEST_P(Incremental, SlotsCanBeCopiedClearedAndUsedAgain) {
  const auto model = random_model(config(), 25);
  const std::int64_t group = config().group_tokens();
  const std::int64_t length = 3 * std::max<std::int64_t>(group, 2);
  const TokenBatch tokens(2, length, config().vocab_size, 26);
  Context ctx;
  ctx.numerics = Numerics::deterministic;
  const auto decoder = make_incremental_decoder(*model, ctx, 3, length);
  const std::vector<std::int64_t> slot0 = {0};
  const std::span<const std::int32_t> prompt(tokens.ids.data(), static_cast<std::size_t>(2 * group));
  decoder->prefill(slot0, std::vector{prompt});
  decoder->copy_slot(0, 2);
  EXPECT_EQ(decoder->length(2), 2 * group);
  const auto step = [&](std::int64_t slot, const std::int32_t* row) {
    return forced_step(*decoder, {slot}, {row}, config().vocab_size)[0];
  };
  const auto original = step(0, tokens.ids.data() + 2 * group);
  const auto copied = step(2, tokens.ids.data() + 2 * group);
  EXPECT_EQ(original, copied);
  decoder->clear(0);
  EXPECT_EQ(decoder->length(0), 0);
  decoder->prefill(slot0, std::vector{prompt});
  EXPECT_EQ(step(0, tokens.ids.data() + 2 * group), original);
}

class RecGen : public ::testing::TestWithParam<NamedConfig> {
 protected:
  const ModelConfig& config() const { return GetParam().config; }
};
INSTANTIATE_TEST_SUITE_P(Shapes, RecGen, ::testing::ValuesIn(testing::recgen_shapes()),
                         [](const auto& shape) { return shape.param.name; });

// Aligned, ragged and empty prompts, and prompts longer than the text's last whole group.
TEST_P(RecGen, ScoresFollowTheDefinition) {
  const auto model = random_model(config(), 27);
  const ReferenceModel reference(config(), model->parameters());
  const auto group = static_cast<int>(config().group_tokens());
  const int length = 4 * group + 3;
  const TokenBatch tokens(5, length, config().vocab_size, 28);
  const std::vector<std::int64_t> prompts = {0, group, group + 1, 2 * group - 1, 4 * group + 1};
  const Tensor hidden = recgen_hidden(*model, {}, tokens.batch(), prompts);
  for (std::int64_t b = 0; b < 5; ++b) {
    testing::Vector expected;
    for (const auto& row :
         reference.recgen_hidden(tokens.row(b), static_cast<int>(prompts[static_cast<std::size_t>(b)]))) {
      expected.insert(expected.end(), row.begin(), row.end());
    }
    EXPECT_CLOSE(hidden.host<float>() + b * length * config().dim, expected.data(), length * config().dim,
                 cache_tolerance);
  }
}

// Rolling far ahead gives the bits of rolling one group at a time, and the chunks decoded side by side those of one by
// one.
TEST_P(RecGen, LookaheadEqualsStepByStep) {
  const auto model = random_model(config(), 29);
  const std::int64_t group = config().group_tokens();
  const std::int64_t chunk = config().levels[0].chunk;
  const TokenBatch tokens(2, 6 * group, config().vocab_size, 30);
  Context ctx;
  ctx.numerics = Numerics::deterministic;
  const std::vector<std::int64_t> slots = {1, 0};
  std::vector<std::span<const std::int32_t>> prompts;
  for (std::int64_t b = 0; b < 2; ++b)
    prompts.emplace_back(tokens.ids.data() + b * tokens.length, static_cast<std::size_t>(2 * group));

  const auto ahead = make_incremental_decoder(*model, ctx, 2, tokens.length);
  ahead->prefill(slots, prompts);
  const ConstTensorView all = ahead->roll_out(slots, 4);
  const std::int64_t num_chunks = 4 * group / chunk;
  ASSERT_EQ(all.shape(), (Shape{2, num_chunks, config().levels[0].dim}));

  const auto stepwise = make_incremental_decoder(*model, ctx, 2, tokens.length);
  stepwise->prefill(slots, prompts);
  for (std::int64_t g = 0; g < 4; ++g) {
    for (std::int64_t b = 0; b < 2; ++b) {  // a row at a time, too
      const ConstTensorView one = stepwise->roll_out(std::vector{slots[static_cast<std::size_t>(b)]}, 1);
      const ConstTensorView expected = all.slice(0, b, 1).merge(0).slice(0, g * group / chunk, group / chunk);
      EXPECT_EQ(std::memcmp(one.data(), expected.data(), static_cast<std::size_t>(expected.bytes())), 0);
    }
  }

  const ConstTensorView flat = all.merge(0);
  // The logits [C_1, V] of chunks first .. first + count - 1 with the tokens given.
  const auto logits_of = [&](std::int64_t first, std::int64_t count) {
    std::vector<std::int64_t> latents;
    std::vector<std::int32_t> forced;
    std::vector<RowDraw> draws;
    for (std::int64_t i = first; i < first + count; ++i) {
      latents.push_back(i);
      const std::int32_t* const row = tokens.ids.data() + i * chunk;
      forced.insert(forced.end(), row, row + chunk);
      RowDraw draw;
      draw.key.position = static_cast<std::uint64_t>(2 * group);
      draws.push_back(draw);
    }
    const std::vector<std::int64_t> owners(latents.size(), 0);
    const Tensor logits(Space::host, DType::f32, {count, chunk, config().vocab_size});
    ahead->watch_logits(logits);
    EXPECT_EQ(ahead->decode_chunks(flat, {latents, owners, draws, forced}).tokens, forced);
    return std::vector<float>(logits.host<float>(), logits.host<float>() + logits.numel());
  };
  const std::vector<float> together = logits_of(0, flat.size(0));
  const auto each = static_cast<std::size_t>(chunk * config().vocab_size);
  for (std::int64_t i = 0; i < flat.size(0); ++i) {
    const auto begin = together.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(i) * each);
    EXPECT_EQ(logits_of(i, 1), std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(each)));
  }
}

TEST(RecGen, IsRefusedWhereItHasNoMeaning) {
  for (const NamedConfig& shape : testing::all_shapes()) {
    const bool possible = shape.config.num_levels() >= 2 && shape.config.lookback == 0;
    if (possible) {
      EXPECT_NO_THROW(require_recgen(shape.config)) << shape.name;
    } else {
      EXPECT_THROW(require_recgen(shape.config), InputError) << shape.name;
    }
  }
}

}  // namespace
}  // namespace photon
