// The likeliest tokens against a softmax in double precision.
#include "kernels/top_tokens.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/draw.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

struct Top {
  std::vector<std::int32_t> tokens;
  std::vector<float> logprobs;
};

Top top_of(std::vector<float>& logits, std::int64_t rows, std::int64_t stride, std::int64_t n, std::int64_t count) {
  Top top{std::vector<std::int32_t>(static_cast<std::size_t>(rows * count), -7),
          std::vector<float>(static_cast<std::size_t>(rows * count), 7)};
  top_tokens(Context{}, host_view(logits.data(), {rows, stride}).slice(1, 0, n),
             host_view(top.tokens.data(), {rows, count}), host_view(top.logprobs.data(), {rows, count}));
  return top;
}

TEST(TopTokens, AreThoseOfADoubleSoftmax) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 4);
  for (const std::int64_t n : {1L, 2L, 4L, 7L, 257L, 1031L, 32000L}) {
    for (std::int64_t count = 1; count <= most_top_tokens; ++count) {
      const std::int64_t rows = n > 10000 ? 3 : 9;
      const std::int64_t stride = n + 3;
      std::vector<float> logits(static_cast<std::size_t>(rows * stride));
      for (std::size_t i = 0; i < logits.size(); ++i) {
        logits[i] = normal(random);
        if (i / static_cast<std::size_t>(stride) % 2 == 1) logits[i] = std::round(logits[i]);  // many of one value
      }
      const Top top = top_of(logits, rows, stride, n, count);
      for (std::int64_t r = 0; r < rows; ++r) {
        const float* const x = logits.data() + r * stride;
        std::vector<std::int32_t> order(static_cast<std::size_t>(n));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [x](std::int32_t a, std::int32_t b) { return x[a] > x[b]; });
        double sum = 0;
        for (std::int64_t v = 0; v < n; ++v)
          sum += std::exp(static_cast<double>(x[v]) - static_cast<double>(x[order[0]]));
        for (std::int64_t i = 0; i < count; ++i) {
          const auto at = static_cast<std::size_t>(r * count + i);
          if (i >= n) {
            EXPECT_EQ(top.tokens[at], -1);
            EXPECT_EQ(top.logprobs[at], 0);
            continue;
          }
          const std::int32_t expected = order[static_cast<std::size_t>(i)];
          EXPECT_EQ(top.tokens[at], expected) << n << " logits, row " << r << ", place " << i;
          // The exponentials are floats of 2^-23 each, their sum is double, the result is rounded once.
          const double logprob = static_cast<double>(x[expected]) - static_cast<double>(x[order[0]]) - std::log(sum);
          EXPECT_NEAR(static_cast<double>(top.logprobs[at]), logprob, 1e-6 + 1e-7 * std::abs(logprob));
        }
      }
    }
  }
}

// What a draw says of a token, to the bit.
TEST(TopTokens, AgreeWithTheDraw) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  constexpr std::int64_t rows = 20, n = 500;
  std::vector<float> logits(rows * n);
  for (float& x : logits) x = normal(random);
  const Top top = top_of(logits, rows, n, n, 2);
  std::vector<DrawRow> draws(rows);
  for (std::int64_t r = 0; r < rows; ++r) draws[static_cast<std::size_t>(r)].slot = r;
  std::vector<std::int32_t> forced(rows, draw_token), history(rows), tokens(rows), chosen(rows);
  std::vector<float> logprobs(rows);
  DrawCall call;
  call.logits = host_view(logits.data(), {rows, n});
  call.rows = host_view(reinterpret_cast<const std::uint8_t*>(draws.data()),
                        {rows * static_cast<std::int64_t>(sizeof(DrawRow))});
  call.forced = host_view(std::as_const(forced).data(), {rows});
  call.history = host_view(history.data(), {rows, 1});
  call.tokens = host_view(tokens.data(), {rows});
  call.chosen = host_view(chosen.data(), {rows});
  call.logprobs = host_view(logprobs.data(), {rows});
  draw_tokens(Context{}, call);
  for (std::size_t r = 0; r < rows; ++r) {
    EXPECT_EQ(chosen[r], top.tokens[2 * r]);
    EXPECT_EQ(logprobs[r], top.logprobs[2 * r]);
  }
}

TEST(TopTokens, RowsThatCannotBeReadHaveNone) {
  std::vector<float> logits{1,         std::nanf(""), 2,         infinity,  1, 2,
                            -infinity, -infinity,     -infinity, -infinity, 5, -infinity};
  const Top top = top_of(logits, 4, 3, 3, 2);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(top.tokens[i], -1) << i;
    EXPECT_EQ(top.logprobs[i], 0) << i;
  }
  EXPECT_EQ(top.tokens[6], 1);
  EXPECT_EQ(top.logprobs[6], 0);
  EXPECT_EQ(top.tokens[7], 0);
  EXPECT_EQ(top.logprobs[7], -infinity);
  EXPECT_THROW(top_of(logits, 4, 3, 3, most_top_tokens + 1), ContractError);
}

}  // namespace
}  // namespace photon
