// Decoding on a GPU against decoding on the host, and against itself under other batches, graphs and look-aheads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "../decode/model_runs.hpp"
#include "kernels/linear.hpp"
#include "model/incremental.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::decode;
using testing::expect_same;
using testing::NamedConfig;
using testing::requests;
using testing::stack;
using testing::TokenBatch;

// The small shapes, and two whose heads are as wide as a warp's loads.
std::vector<NamedConfig> shapes() {
  std::vector<NamedConfig> result = testing::all_shapes();
  result.push_back({"heads_of_64", testing::photon_config(67, 128,
                                                          {{128, 4, 4, stack(2, 2, 2, 96), stack(2, 2, 1, 96)},
                                                           {128, 4, 4, stack(1, 2, 2, 96), stack(2, 2, 2, 96)}})});
  result.push_back({"heads_of_128", testing::photon_config(67, 128,
                                                           {{256, 2, 3, stack(1, 2, 2, 96), stack(1, 1, 1, 96)},
                                                            {256, 4, 2, stack(1, 2, 1, 96), stack(2, 2, 2, 96)}})});
  return result;
}
std::vector<NamedConfig> recgen_shapes() {
  std::vector<NamedConfig> result;
  for (const NamedConfig& s : shapes()) {
    if (s.config.num_levels() >= 2 && s.config.lookback == 0) result.push_back(s);
  }
  return result;
}

class DeviceDecode : public ::testing::TestWithParam<NamedConfig> {
 protected:
  void SetUp() override {
    if (device::count() == 0) GTEST_SKIP() << "this machine has no GPU";
    stream_ = device::make_stream();
    scratch_ = Arena(Space::device, std::int64_t{64} << 20, "the test's scratch");
    ctx_ = {.space = Space::device, .numerics = Numerics::deterministic, .stream = stream_, .scratch = &scratch_};
  }
  void TearDown() override {
    if (stream_.handle() != nullptr) device::destroy_stream(stream_);
  }
  const ModelConfig& config() const { return GetParam().config; }

  std::unique_ptr<Model> on_device(Model& host, DType dtype) const {
    std::unique_ptr<Model> model = make_frozen_model(host.config(), Space::device, 1, dtype);
    model->parameters().assign(host.parameters());
    return model;
  }
  // Logits [2, T - group, V] of two rows with given tokens, decoded behind a prompt of one group.
  std::vector<float> forced_logits(Model& model, const Context& ctx, const TokenBatch& tokens) const {
    const std::int64_t group = config().group_tokens();
    const std::int64_t steps = tokens.length / group - 1;
    const auto decoder = make_incremental_decoder(model, ctx, 3, tokens.length);
    const std::vector<std::int64_t> slots = {2, 0};
    std::vector<std::span<const std::int32_t>> prompts;
    for (std::int64_t b = 0; b < 2; ++b)
      prompts.emplace_back(tokens.ids.data() + b * tokens.length, static_cast<std::size_t>(group));
    decoder->prefill(slots, prompts);
    const Tensor all(Space::host, DType::f32, {2, steps, group, config().vocab_size});
    for (std::int64_t g = 0; g < steps; ++g) {
      std::vector<std::int32_t> forced;
      for (std::int64_t b = 0; b < 2; ++b) {
        const auto row = tokens.ids.begin() + b * tokens.length + (g + 1) * group;
        forced.insert(forced.end(), row, row + group);
      }
      const Tensor logits(Space::host, DType::f32, {2, group, config().vocab_size});
      const std::vector<RowDraw> draws(2);
      decoder->watch_logits(logits);
      decoder->step_group({slots, forced, draws});
      EXPECT_EQ(decoder->take_step().tokens, forced);
      for (std::int64_t b = 0; b < 2; ++b)
        copy(logits.view().slice(0, b, 1).merge(0), all.view().slice(0, b, 1).merge(0).slice(0, g, 1).merge(0));
    }
    return {all.host<float>(), all.host<float>() + all.numel()};
  }
  TokenBatch tokens() const {
    return {2, 6 * std::max<std::int64_t>(config().group_tokens(), 4), config().vocab_size, 5};
  }

  Stream stream_;
  Arena scratch_;
  Context ctx_;
};
INSTANTIATE_TEST_SUITE_P(Shapes, DeviceDecode, ::testing::ValuesIn(shapes()),
                         [](const auto& shape) { return shape.param.name; });

TEST_P(DeviceDecode, Float32LogitsAreTheHosts) {
  const auto host = testing::random_model(config(), 3);
  const auto there = on_device(*host, DType::f32);
  const std::vector<float> expected = forced_logits(*host, testing::deterministic(), tokens());
  const std::vector<float> actual = forced_logits(*there, ctx_, tokens());
  ASSERT_EQ(actual.size(), expected.size());
  EXPECT_CLOSE(actual.data(), expected.data(), static_cast<std::int64_t>(expected.size()), 1e-4);
}

TEST_P(DeviceDecode, CachedBf16LogitsAreTheUncachedOnes) {
  const auto host = testing::random_model(config(), 3);
  const auto there = on_device(*host, DType::bf16);
  const TokenBatch batch = tokens();
  // Two rows: in tuned numerics by the ops for few rows.
  for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
    Context ctx = ctx_;
    ctx.numerics = numerics;
    const std::vector<float> cached = forced_logits(*there, ctx, batch);
    const Tensor hidden = there->hidden(ctx_, batch.batch());
    const Tensor logits(Space::device, DType::f32, {2 * batch.length, config().vocab_size});
    linear_forward(ctx_, hidden.view().merge(0), there->head_weight(), logits);
    device::synchronize(stream_);
    const Tensor here(Space::host, DType::f32, logits.shape());
    copy(logits, here);
    const std::int64_t each = (batch.length - config().group_tokens()) * config().vocab_size;
    double error = 0;
    double size = 0;
    for (std::int64_t b = 0; b < 2; ++b) {
      const float* const expected =
          here.host<float>() + (b * batch.length + config().group_tokens()) * config().vocab_size;
      for (std::int64_t i = 0; i < each; ++i) {
        const double difference = static_cast<double>(cached[static_cast<std::size_t>(b * each + i)] - expected[i]);
        error += difference * difference;
        size += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
      }
    }
    EXPECT_LT(std::sqrt(error / size), 0.05);  // a few roundings of 2^-8 in each of up to eight layers
  }
}

TEST_P(DeviceDecode, GreedyTextInFloat32IsTheHosts) {
  const auto host = testing::random_model(config(), 3);
  const auto there = on_device(*host, DType::f32);
  const std::vector<Request> rows = requests(config(), 0);
  EngineOptions options;
  options.max_batch = 4;
  const auto expected = decode(*host, rows, options);
  const auto actual = decode(*there, rows, options, -1, ctx_);
  for (const auto& [id, samples] : expected) EXPECT_EQ(actual.at(id)[0].tokens, samples[0].tokens) << id;
}

TEST_P(DeviceDecode, ARowDoesNotDependOnTheBatch) {
  const auto host = testing::random_model(config(), 4);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto there = on_device(*host, dtype);
    std::vector<Request> rows = requests(config(), 0.9, 1.3);
    EngineOptions options;
    options.logprobs = true;
    options.top_logprobs = 3;
    options.max_batch = 1;
    const auto alone = decode(*there, rows, options, 2, ctx_);
    testing::expect_top(alone, 3, false);
    for (const std::int64_t batch : {3, 7, 64}) {
      std::reverse(rows.begin(), rows.end());
      options.max_batch = batch;
      expect_same(alone, decode(*there, rows, options, 2, ctx_));
    }
  }
}

TEST_P(DeviceDecode, GraphsChangeNothing) {
  const auto host = testing::random_model(config(), 4);
  const auto there = on_device(*host, DType::bf16);
  const std::vector<Request> rows = requests(config(), 0.8);
  for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
    Context ctx = ctx_;
    ctx.numerics = numerics;
    EngineOptions options;
    options.max_batch = 5;
    options.logprobs = true;
    options.top_logprobs = 3;
    options.graphs = false;
    const auto plain = decode(*there, rows, options, 2, ctx);
    options.graphs = true;
    expect_same(plain, decode(*there, rows, options, 2, ctx));
  }
}

class DeviceRecGen : public DeviceDecode {};
INSTANTIATE_TEST_SUITE_P(RecGen, DeviceRecGen, ::testing::ValuesIn(recgen_shapes()),
                         [](const auto& shape) { return shape.param.name; });

TEST_P(DeviceRecGen, GreedyRecGenInFloat32IsTheHosts) {
  const auto host = testing::random_model(config(), 6);
  const auto there = on_device(*host, DType::f32);
  const std::vector<Request> rows = requests(config(), 0);
  EngineOptions options;
  options.mode = GenerationMode::recgen;
  const auto expected = decode(*host, rows, options);
  const auto actual = decode(*there, rows, options, -1, ctx_);
  for (const auto& [id, samples] : expected) EXPECT_EQ(actual.at(id)[0].tokens, samples[0].tokens) << id;
}

TEST_P(DeviceRecGen, AllChunksAtOnceAreThoseOneByOne) {
  const auto host = testing::random_model(config(), 5);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto there = on_device(*host, dtype);
    const std::vector<Request> rows = requests(config(), 0.9, 1.3);
    EngineOptions options;
    options.mode = GenerationMode::recgen;
    options.logprobs = true;
    options.top_logprobs = 3;
    options.max_batch = 1;
    options.look_ahead = 1;
    options.max_chunks = 1;
    const auto alone = decode(*there, rows, options, 2, ctx_);
    testing::expect_top(alone, 3, false);
    for (const std::int64_t look_ahead : {0, 2, 100}) {
      options.look_ahead = look_ahead;
      options.max_batch = look_ahead == 2 ? 4 : 16;
      options.max_chunks = look_ahead == 2 ? 3 : 1024;
      options.graphs = look_ahead != 100;
      expect_same(alone, decode(*there, rows, options, 2, ctx_));
    }
  }
}

}  // namespace
}  // namespace photon
