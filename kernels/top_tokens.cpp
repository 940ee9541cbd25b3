#include "kernels/top_tokens.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {
namespace {

struct Candidate {
  float value = -std::numeric_limits<float>::infinity();
  std::int32_t token = -1;
};

// The `count` largest, and whether the row is usable: a finite value, no NaN and no infinity.
bool find_top(const float* x, std::int64_t n, std::int64_t count, std::array<Candidate, most_top_tokens>& top) {
  bool finite = false;
  for (std::int64_t v = 0; v < n; ++v) {
    if (std::isnan(x[v]) || x[v] == std::numeric_limits<float>::infinity()) return false;
    finite = finite || std::isfinite(x[v]);
    auto place = static_cast<std::size_t>(count) - 1;
    if (top[place].token >= 0 && !(x[v] > top[place].value)) continue;
    for (; place > 0 && (top[place - 1].token < 0 || x[v] > top[place - 1].value); --place) top[place] = top[place - 1];
    top[place] = {x[v], static_cast<std::int32_t>(v)};
  }
  return finite;
}

}  // namespace

void top_tokens(const Context& ctx, const ConstTensorView& logits, const TensorView& tokens,
                const TensorView& logprobs) {
  expect_rank(ctx, logits, DType::f32, 2, "logits");
  const std::int64_t rows = logits.size(0);
  const std::int64_t n = logits.size(1);
  expect_rank(ctx, tokens, DType::i32, 2, "tokens");
  const std::int64_t count = tokens.size(1);
  PHOTON_EXPECT(count >= 1 && count <= most_top_tokens, "the {} likeliest tokens (1 to {})", count, most_top_tokens);
  expect_shape(tokens, {rows, count}, "tokens");
  expect_tensor(ctx, logprobs, DType::f32, {rows, count}, "logprobs");
  if (ctx.space == Space::device) return cuda::top_tokens(ctx, logits, tokens, logprobs);
#pragma omp parallel for schedule(static) if (rows > 1)
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* const x = logits.host<float>() + r * logits.stride(0);
    std::array<Candidate, most_top_tokens> top;
    const bool usable = find_top(x, n, count, top);
    const double log_sum = usable ? std::log(cpu::loops().sum_exp(x, top[0].value, 1.0F, n)) : 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const Candidate& one = top[static_cast<std::size_t>(i)];
      const bool there = usable && one.token >= 0;
      tokens.host<std::int32_t>()[r * count + i] = there ? one.token : -1;
      logprobs.host<float>()[r * count + i] =
          there ? static_cast<float>(static_cast<double>(one.value) - static_cast<double>(top[0].value) - log_sum) : 0;
    }
  }
}

}  // namespace photon
