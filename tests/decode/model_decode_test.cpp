// The engine on real models.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "blueprint/activations.hpp"
#include "kernels/head_loss.hpp"
#include "model/incremental.hpp"
#include "model_runs.hpp"

namespace photon {
namespace {

using testing::decode;
using testing::deterministic;
using testing::expect_same;
using testing::requests;

class ModelDecodeTest : public ::testing::TestWithParam<testing::NamedConfig> {};
class RecGenDecodeTest : public ::testing::TestWithParam<testing::NamedConfig> {};

TEST_P(ModelDecodeTest, GreedyIsTheArgmaxOfTheTrainingForward) {
  const ModelConfig& config = GetParam().config;
  const auto model = testing::random_model(config, 3);
  const std::vector<Request> rows = requests(config, 0);
  EngineOptions options;
  options.max_batch = 4;
  options.logprobs = true;
  options.top_logprobs = 3;
  const auto results = decode(*model, rows, options);
  testing::expect_top(results, 3, true);
  for (const Request& row : rows) {
    const Completion& completion = results.at(row.id)[0];
    ASSERT_EQ(static_cast<std::int64_t>(completion.tokens.size()), row.options.max_new_tokens);
    std::vector<std::int32_t> sequence = row.prompt;
    sequence.insert(sequence.end(), completion.tokens.begin(), completion.tokens.end());
    const auto n = static_cast<std::int64_t>(sequence.size());
    std::vector<std::int32_t> argmax(sequence.size());
    std::vector<float> loss(sequence.size());
    model->evaluate(deterministic(), {host_view(sequence.data(), {1, n}), {}}, {}, host_view(loss.data(), {1, n}),
                    host_view(argmax.data(), {1, n}));
    for (std::size_t i = row.prompt.size(); i < sequence.size(); ++i) {
      EXPECT_EQ(sequence[i], argmax[i]) << "row " << row.id << ", token " << i;
      EXPECT_NEAR(static_cast<double>(completion.logprobs[i - row.prompt.size()]), -static_cast<double>(loss[i]), 1e-3);
    }
  }
}

TEST_P(ModelDecodeTest, ARowDoesNotDependOnTheBatch) {
  const ModelConfig& config = GetParam().config;
  const auto model = testing::random_model(config, 4);
  std::vector<Request> rows = requests(config, 0.9, 1.3);
  EngineOptions options;
  options.logprobs = true;
  options.top_logprobs = 3;
  options.max_batch = 1;
  const std::int32_t eos = 2;
  const auto alone = decode(*model, rows, options, eos);
  testing::expect_top(alone, 3, false);
  for (const std::int64_t batch : {3, 7}) {
    std::reverse(rows.begin(), rows.end());
    options.max_batch = batch;
    expect_same(alone, decode(*model, rows, options, eos));
  }
  for (const auto& [id, samples] : alone) {
    const auto& tokens = samples[0].tokens;
    EXPECT_EQ(std::find(tokens.begin(), tokens.end(), eos), tokens.end()) << "the eos is not part of a result";
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ModelDecodeTest, ::testing::ValuesIn(testing::all_shapes()),
                         [](const auto& shape) { return shape.param.name; });

TEST_P(RecGenDecodeTest, TextDoesNotDependOnBatchOrLookAhead) {
  const ModelConfig& config = GetParam().config;
  const auto model = testing::random_model(config, 5);
  const std::vector<Request> rows = requests(config, 0.9, 1.3);
  EngineOptions options;
  options.mode = GenerationMode::recgen;
  options.logprobs = true;
  options.top_logprobs = 3;
  options.max_batch = 1;
  options.look_ahead = 1;
  const auto alone = decode(*model, rows, options, 2);
  testing::expect_top(alone, 3, false);
  for (const std::int64_t look_ahead : {0, 2, 100}) {
    options.look_ahead = look_ahead;
    options.max_batch = look_ahead == 2 ? 4 : 16;
    options.max_chunks = look_ahead == 2 ? 3 : 1024;
    expect_same(alone, decode(*model, rows, options, 2));
  }
}

// The encoders below the top keep caches for three rows at a time: prompts are completed in turns, copies of one, and
// one that waits for free slots, included.
TEST_P(RecGenDecodeTest, FewRowsHaveCachesBelowTheTop) {
  const ModelConfig& config = GetParam().config;
  const auto model = testing::random_model(config, 7);
  std::vector<Request> rows = requests(config, 0.9, 1.3);
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i].options.num_samples = i % 4 == 1 ? 14 : 1 + static_cast<int>(i) % 3;
  EngineOptions options;
  options.mode = GenerationMode::recgen;
  options.logprobs = true;
  const auto expected = decode(*model, rows, options, 2);
  options.prompt_rows = 3;
  for (const std::int64_t max_batch : {2, 9, 100}) {
    SCOPED_TRACE(::testing::Message() << "at most " << max_batch << " rows");
    options.max_batch = max_batch;
    expect_same(expected, decode(*model, rows, options, 2));
  }
}

TEST_P(RecGenDecodeTest, ARowBeyondThoseTakesTheTopsCacheAlone) {
  const ModelConfig& config = GetParam().config;
  const auto model = testing::random_model(config, 7);
  const std::int64_t tokens = 8 * config.group_tokens();
  const auto held = [&](std::int64_t slots) {
    return make_incremental_decoder(*model, deterministic(), slots, tokens, {.prompt_rows = 3})->cache_bytes();
  };
  const std::int64_t row = slot_cache_bytes(config, tokens);
  const std::int64_t lower = lower_cache_bytes(config, tokens);
  EXPECT_GT(lower, 0);
  EXPECT_EQ(held(3), 3 * row);
  EXPECT_EQ(held(11), 11 * row - 8 * lower);

  const DecoderSource source = decoder_source(*model, deterministic());
  for (const std::int64_t slots : {1, 2, 3, 4, 11, 500}) {
    const std::int64_t bytes = slots * row - std::max<std::int64_t>(slots - 3, 0) * lower;
    EXPECT_EQ(source.slots_in(bytes, tokens, GenerationMode::recgen, 3), slots);
    EXPECT_EQ(source.slots_in(bytes - 1, tokens, GenerationMode::recgen, 3), slots - 1);
    EXPECT_EQ(source.slots_in(slots * row, tokens, GenerationMode::hiergen, 3), slots);
  }
}

TEST_P(RecGenDecodeTest, GreedyIsTheArgmaxOfRecGensLikelihood) {
  const ModelConfig& config = GetParam().config;
  const auto model = testing::random_model(config, 6);
  const std::vector<Request> rows = requests(config, 0);
  EngineOptions options;
  options.mode = GenerationMode::recgen;
  const auto results = decode(*model, rows, options);
  for (const Request& row : rows) {
    std::vector<std::int32_t> sequence = row.prompt;
    const auto& tokens = results.at(row.id)[0].tokens;
    sequence.insert(sequence.end(), tokens.begin(), tokens.end());
    const auto n = static_cast<std::int64_t>(sequence.size());
    const std::vector<std::int64_t> prompt{static_cast<std::int64_t>(row.prompt.size())};
    const Tensor hidden = recgen_hidden(*model, deterministic(), {host_view(sequence.data(), {1, n}), {}}, prompt);
    std::vector<std::int32_t> argmax(sequence.size());
    head_loss_forward(deterministic(), hidden.view().merge(0), model->head_weight(), host_view(sequence.data(), {n}),
                      {}, {}, host_view(argmax.data(), {n}));
    for (std::size_t i = row.prompt.size(); i < sequence.size(); ++i) {
      EXPECT_EQ(sequence[i], argmax[i]) << "row " << row.id << ", token " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RecGenDecodeTest, ::testing::ValuesIn(testing::recgen_shapes()),
                         [](const auto& shape) { return shape.param.name; });

TEST(RecGenTest, ModelsWithoutItAreRefused) {
  for (const testing::NamedConfig& shape : testing::all_shapes()) {
    const bool can = shape.config.num_levels() >= 2 && shape.config.lookback == 0;
    if (can) {
      EXPECT_NO_THROW(require_recgen(shape.config)) << shape.name;
    } else {
      EXPECT_THROW(require_recgen(shape.config), InputError) << shape.name;
    }
  }
}

}  // namespace
}  // namespace photon
