#include "kernels/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

namespace {

constexpr std::int64_t block = 1 << 14;  // elements, a fixed unit of work and of summation

}  // namespace

void adamw(const Context& ctx, const AdamWStep& step, const TensorView& p, const ConstTensorView& g,
           const TensorView& m, const TensorView& v, const TensorView& rounded) {
  expect_rank(ctx, p, DType::f32, 1, "p");
  expect_tensor(ctx, g, DType::f32, p.shape(), "g");
  expect_tensor(ctx, m, DType::f32, p.shape(), "m");
  expect_tensor(ctx, v, DType::f32, p.shape(), "v");
  if (rounded) expect_tensor(ctx, rounded, DType::bf16, p.shape(), "rounded");
  PHOTON_EXPECT(!rounded || ctx.space == Space::device, "a bf16 copy of weights on the host");
  PHOTON_EXPECT(step.step >= 1, "step {} (counted from 1)", step.step);
  if (ctx.space == Space::device) return cuda::adamw(ctx, step, p, g, m, v, rounded);
  const std::int64_t n = p.numel();
  if (n == 0) return;
  const auto steps = static_cast<double>(step.step);
  cpu::AdamWFactors f{};
  f.beta1 = static_cast<float>(step.beta1);
  f.beta2 = static_cast<float>(step.beta2);
  f.rest1 = static_cast<float>(1 - step.beta1);
  f.rest2 = static_cast<float>(1 - step.beta2);
  f.gradient_scale = static_cast<float>(step.gradient_scale);
  f.decay = static_cast<float>(1 - step.learning_rate * step.weight_decay);
  f.step_size = static_cast<float>(step.learning_rate / (1 - std::pow(step.beta1, steps)));
  f.v_scale = static_cast<float>(1 / (1 - std::pow(step.beta2, steps)));
  f.eps = static_cast<float>(step.eps);
  float* parameter = p.host<float>();
  const float* gradient = g.host<float>();
  float* first = m.host<float>();
  float* second = v.host<float>();
#pragma omp parallel for schedule(static) if (n > block)
  for (std::int64_t i = 0; i < n; i += block) {
    cpu::loops().adamw(f, std::min(block, n - i), parameter + i, gradient + i, first + i, second + i);
  }
}

double sum_of_squares(const Context& ctx, const ConstTensorView& x) {
  expect_rank(ctx, x, DType::f32, 1, "x");
  if (ctx.space == Space::device) return cuda::sum_of_squares(ctx, x);
  const std::int64_t n = x.numel();
  if (n == 0) return 0;
  const float* data = x.host<float>();
  std::vector<double> sums(static_cast<std::size_t>((n + block - 1) / block));
#pragma omp parallel for schedule(static) if (n > block)
  for (std::int64_t i = 0; i < n; i += block) {
    sums[static_cast<std::size_t>(i / block)] = cpu::loops().sum_of_squares(data + i, std::min(block, n - i));
  }
  double total = 0;
  for (const double s : sums) total += s;
  return total;
}

void add_sum_of_squares(const Context& ctx, const ConstTensorView& x, const TensorView& total) {
  expect_tensor(ctx, total, DType::f64, {1}, "total");
  if (ctx.space == Space::host) {
    *total.host<double>() += sum_of_squares(ctx, x);
    return;
  }
  expect_rank(ctx, x, DType::f32, 1, "x");
  cuda::add_sum_of_squares(ctx, x, total);
}

}  // namespace photon
