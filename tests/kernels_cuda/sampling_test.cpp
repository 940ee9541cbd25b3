#include "kernels/sampling.hpp"

#include "parity.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using namespace testing;

class CudaSampling : public OnDevice {
 protected:
  struct Choice {
    std::vector<std::int32_t> tokens;
    std::vector<float> logprobs;
  };
  Choice choose(const Context& ctx, const ConstTensorView& logits, const std::vector<SampleRow>& rows) {
    const auto n = rows.size();
    Choice choice{std::vector<std::int32_t>(n, -1), std::vector<float>(n, std::numeric_limits<float>::quiet_NaN())};
    const Shape shape = {static_cast<std::int64_t>(n)};
    const TensorView tokens = host_view(choice.tokens.data(), shape);
    const TensorView logprobs = host_view(choice.logprobs.data(), shape);
    if (ctx.space == Space::device) {
      cuda::sample(ctx, logits, rows, tokens, logprobs);
    } else {
      sample(ctx, logits, rows, tokens, logprobs);
    }
    return choice;
  }
};
INSTANTIATE_TEST_SUITE_P(, CudaSampling, ::testing::Values(DType::f32), dtype_name);

TEST_P(CudaSampling, ChoosesTheHostsToken) {
  const std::vector<std::int32_t> seen = {0, 3, 3, 1, 250};
  const std::vector<SamplingOptions> options = {
      {.temperature = 0.0},
      {.temperature = 0.0, .repetition_penalty = 1.5},
      {.temperature = 1.0},
      {.temperature = 0.7, .top_k = 1},
      {.temperature = 1.3, .top_k = 40},
      {.temperature = 1.0, .top_p = 0.9},
      {.temperature = 2.0, .min_p = 0.05},
      {.temperature = 0.8, .top_k = 100, .top_p = 0.8, .min_p = 0.01, .repetition_penalty = 1.2},
      {.temperature = 1e-300},
      {.temperature = 1e4},
  };
  for (const std::int64_t vocabulary : {259, 1024, 5003}) {
    const auto num_rows = static_cast<std::int64_t>(20 * options.size());
    const Pair logits = random_pair(DType::f32, {num_rows, vocabulary}, 1, 2.0);
    std::vector<SampleRow> rows;
    for (std::int64_t r = 0; r < num_rows; ++r) {
      rows.push_back({.options = options[static_cast<std::size_t>(r) % options.size()],
                      .key = {.seed = 9, .request = static_cast<std::uint64_t>(r) * 77, .sample = 2, .position = 5},
                      .seen = seen});
    }
    const Choice expected = choose(host_, logits.host, rows);
    const Choice actual = choose(ctx_, logits.device, rows);
    EXPECT_EQ(actual.tokens, expected.tokens) << "of " << vocabulary;
    EXPECT_CLOSE(actual.logprobs.data(), expected.logprobs.data(), num_rows, 1e-6);
  }
}

TEST_P(CudaSampling, TiesGoToTheLowerIndex) {
  const Pair logits = random_pair(DType::f32, {1, 4000}, 1, 0.0);
  for (std::uint64_t i = 0; i < 20; ++i) {
    const std::vector<SampleRow> rows = {{.options = {.temperature = 1.0, .top_k = 3}, .key = {.seed = i}, .seen = {}}};
    const Choice expected = choose(host_, logits.host, rows);
    EXPECT_LT(expected.tokens[0], 3);
    EXPECT_EQ(choose(ctx_, logits.device, rows).tokens, expected.tokens);
  }
}

TEST_P(CudaSampling, RefusesRowsWithoutChoice) {
  const std::vector<SampleRow> rows(3, SampleRow{.options = {.temperature = 1.0}, .key = {}, .seen = {}});
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const Pair logits = random_pair(DType::f32, {3, 50}, 1);
    logits.host.host<float>()[60] = bad;
    upload(logits.host, logits.device);
    try {
      choose(ctx_, logits.device, rows);
      ADD_FAILURE() << "accepted " << bad;
    } catch (const InputError& e) {
      EXPECT_NE(std::string(e.what()).find("row 1 "), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace photon
