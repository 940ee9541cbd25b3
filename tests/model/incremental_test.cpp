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

// Forces given tokens and keeps the logits it was shown: logits of row i at token position base[i] + offset.
class Forcing : public TokenChooser {
 public:
  Forcing(std::vector<const std::int32_t*> rows, std::int64_t vocab)
      : logits(rows.size()), rows_(std::move(rows)), vocab_(vocab) {}
  bool needs_logits(std::int64_t) override { return true; }
  void choose(std::int64_t offset, const TensorView& view, std::span<std::int32_t> tokens) override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const float* const row = view.host<float>() + static_cast<std::int64_t>(i) * vocab_;
      logits[i].insert(logits[i].end(), row, row + vocab_);
      tokens[i] = rows_[i][offset];
    }
  }

  std::vector<std::vector<float>> logits;

 private:
  std::vector<const std::int32_t*> rows_;
  std::int64_t vocab_;
};

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
    Forcing forcing(rows, model.config().vocab_size);
    decoder->step_group(slots, forcing);
    for (std::size_t i = 0; i < row_ids.size(); ++i) {
      logits[i].insert(logits[i].end(), forcing.logits[i].begin(), forcing.logits[i].end());
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
    Forcing forcing({row}, config().vocab_size);
    decoder->step_group(std::vector{slot}, forcing);
    return forcing.logits[0];
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
  const Tensor all = ahead->roll_out(slots, 4);
  const std::int64_t num_chunks = 4 * group / chunk;
  ASSERT_EQ(all.shape(), (Shape{2, num_chunks, config().levels[0].dim}));

  const auto stepwise = make_incremental_decoder(*model, ctx, 2, tokens.length);
  stepwise->prefill(slots, prompts);
  for (std::int64_t g = 0; g < 4; ++g) {
    for (std::int64_t b = 0; b < 2; ++b) {  // a row at a time, too
      const Tensor one = stepwise->roll_out(std::vector{slots[static_cast<std::size_t>(b)]}, 1);
      const TensorView expected = all.view().slice(0, b, 1).merge(0).slice(0, g * group / chunk, group / chunk);
      EXPECT_EQ(std::memcmp(one.view().data(), expected.data(), static_cast<std::size_t>(expected.bytes())), 0);
    }
  }

  const auto logits_of = [&](const ConstTensorView& conditioning, std::int64_t first_chunk) {
    std::vector<const std::int32_t*> rows;
    for (std::int64_t i = 0; i < conditioning.size(0); ++i)
      rows.push_back(tokens.ids.data() + (first_chunk + i) * chunk);
    Forcing forcing(rows, config().vocab_size);
    ahead->decode_chunks(conditioning, forcing);
    return forcing.logits;
  };
  const ConstTensorView flat = all.view().merge(0);
  const auto together = logits_of(flat, 0);
  for (std::int64_t i = 0; i < flat.size(0); ++i)
    EXPECT_EQ(logits_of(flat.slice(0, i, 1), i)[0], together[static_cast<std::size_t>(i)]);
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
