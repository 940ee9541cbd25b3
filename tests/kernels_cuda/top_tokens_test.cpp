// The likeliest tokens on a device against the host's, and against the device's own draws.
#include "kernels/top_tokens.hpp"

#include <cmath>
#include <limits>
#include <random>

#include "kernels/draw.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using testing::OnDevice;

using TopTokensOnDevice = OnDevice;
INSTANTIATE_TEST_SUITE_P(, TopTokensOnDevice, ::testing::Values(DType::f32), testing::dtype_name);

template <class T>
std::vector<T> fetched(const Tensor& tensor) {
  std::vector<T> values(static_cast<std::size_t>(tensor.numel()));
  copy(tensor, host_view(values.data(), tensor.shape()));
  return values;
}

TEST_P(TopTokensOnDevice, AreTheHosts) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 4);
  for (const std::int64_t n : {1L, 4L, 31L, 511L, 1000L, 32000L}) {
    for (std::int64_t count = 1; count <= most_top_tokens; ++count) {
      constexpr std::int64_t rows = 70;
      const Tensor logits(Space::host, DType::f32, {rows, n});
      for (std::int64_t i = 0; i < rows * n; ++i) {
        float x = normal(random);
        if (i / n % 2 == 1) x = std::round(x);  // many of one value
        if (i / n == 5) x = std::nanf("");
        if (i / n == 6) x = -std::numeric_limits<float>::infinity();
        logits.host<float>()[i] = x;
      }
      const Tensor tokens(Space::host, DType::i32, {rows, count});
      const Tensor logprobs(Space::host, DType::f32, {rows, count});
      top_tokens(Context{}, logits, tokens, logprobs);
      const Tensor logits_there(Space::device, DType::f32, {rows, n});
      copy(logits, logits_there);
      const Tensor tokens_there(Space::device, DType::i32, {rows, count});
      const Tensor logprobs_there(Space::device, DType::f32, {rows, count});
      top_tokens(ctx_, logits_there, tokens_there, logprobs_there);
      device::synchronize(ctx_.stream);
      EXPECT_EQ(fetched<std::int32_t>(tokens_there), fetched<std::int32_t>(tokens)) << n << " logits, top " << count;
      const std::vector<float> there = fetched<float>(logprobs_there);
      EXPECT_CLOSE(there.data(), logprobs.host<float>(), rows * count, 1e-5);

      // Greedy draws choose the first, with its very log-probability.
      std::vector<DrawRow> draws(static_cast<std::size_t>(rows));
      for (std::int64_t r = 0; r < rows; ++r) draws[static_cast<std::size_t>(r)].slot = r;
      const Tensor draws_there(Space::device, DType::u8, {rows * static_cast<std::int64_t>(sizeof(DrawRow))});
      copy(host_view(reinterpret_cast<const std::uint8_t*>(draws.data()), draws_there.shape()), draws_there);
      const std::vector<std::int32_t> forced(static_cast<std::size_t>(rows), draw_token);
      const Tensor forced_there(Space::device, DType::i32, {rows});
      copy(host_view(forced.data(), {rows}), forced_there);
      const Tensor history(Space::device, DType::i32, {rows, 1});
      const Tensor read(Space::device, DType::i32, {rows});
      const Tensor chosen(Space::device, DType::i32, {rows});
      const Tensor drawn(Space::device, DType::f32, {rows});
      DrawCall call;
      call.logits = logits_there;
      call.rows = draws_there;
      call.forced = forced_there;
      call.history = history;
      call.tokens = read;
      call.chosen = chosen;
      call.logprobs = drawn;
      draw_tokens(ctx_, call);
      device::synchronize(ctx_.stream);
      const auto first_tokens = fetched<std::int32_t>(tokens_there);
      const auto first_logprobs = fetched<float>(logprobs_there);
      const auto chosen_tokens = fetched<std::int32_t>(chosen);
      const auto chosen_logprobs = fetched<float>(drawn);
      for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
        EXPECT_EQ(chosen_tokens[r], first_tokens[r * static_cast<std::size_t>(count)]) << r;
        EXPECT_EQ(chosen_logprobs[r], first_logprobs[r * static_cast<std::size_t>(count)]) << r;
      }
    }
  }
}

}  // namespace
}  // namespace photon
