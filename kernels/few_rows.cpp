#include "kernels/few_rows.hpp"

#include "kernels/checks.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/linear.hpp"
#include "kernels/norm.hpp"
#include "kernels/swiglu.hpp"

namespace photon {
namespace {

constexpr std::int64_t most_width = 8192;  // of x: its rows lie in shared memory

DType expect_few(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y,
                 std::int64_t outputs) {
  const DType dtype = activation_type(ctx, x, "x");
  expect_rank(ctx, x, dtype, 2, "x");
  expect_rank(ctx, w, dtype, 2, "w");
  expect_shape(w, {w.size(0), x.size(1)}, "w");
  expect_contiguous(w, "w");
  expect_tensor(ctx, y, result_type(y, dtype), {x.size(0), outputs}, "y");
  PHOTON_EXPECT(x.size(0) <= most_few_rows && x.size(1) % 8 == 0 && x.size(1) <= most_width,
                "a product for few rows of {}", x.shape().str());
  return dtype;
}

}  // namespace

bool few_rows_apply(const Context& ctx, std::int64_t rows, const ConstTensorView& w) {
  return ctx.space == Space::device && ctx.numerics == Numerics::tuned && rows <= most_few_rows &&
         w.dtype() == DType::bf16 && w.contiguous() && w.size(1) % 8 == 0 && w.size(1) <= most_width &&
         w.size(0) % 2 == 0 && cuda::few_rows_possible();
}

void few_norm_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& y) {
  const DType dtype = expect_few(ctx, x, w, y, w.size(0));
  expect_tensor(ctx, norm, DType::f32, {x.size(1)}, "norm");
  if (ctx.space == Space::device) return cuda::few_norm_linear(ctx, x, norm, eps, w, y);
  const Tensor h(ctx.space, dtype, x.shape(), "normalised rows");
  rms_norm_forward(ctx, x, norm, eps, h, TensorView());
  linear_forward(ctx, h, w, y);
}

void few_norm_swiglu(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& act) {
  const DType dtype = expect_few(ctx, x, w, act, w.size(0) / 2);
  expect_tensor(ctx, norm, DType::f32, {x.size(1)}, "norm");
  if (ctx.space == Space::device) return cuda::few_norm_swiglu(ctx, x, norm, eps, w, act);
  const Tensor gate_up(ctx.space, dtype, {x.size(0), w.size(0)}, "gate and up");
  few_norm_linear(ctx, x, norm, eps, w, gate_up);
  swiglu_forward(ctx, gate_up, act);
}

void few_norm(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
              const TensorView& y) {
  const DType dtype = activation_type(ctx, x, "x");
  expect_rank(ctx, x, dtype, 2, "x");
  expect_tensor(ctx, y, dtype, x.shape(), "y");
  expect_tensor(ctx, norm, DType::f32, {x.size(1)}, "norm");
  PHOTON_EXPECT(ctx.space == Space::host || dtype == DType::bf16, "few_norm of {}", name_of(dtype));
  if (ctx.space == Space::device) return cuda::few_norm(ctx, x, norm, eps, y);
  rms_norm_forward(ctx, x, norm, eps, y, TensorView());
}

void few_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const ConstTensorView& residual,
                const TensorView& y) {
  const DType dtype = expect_few(ctx, x, w, y, w.size(0));
  if (residual) expect_tensor(ctx, residual, dtype, y.shape(), "residual");
  if (ctx.space == Space::device) return cuda::few_linear(ctx, x, w, residual, y);
  linear_forward(ctx, x, w, y, residual);
}

}  // namespace photon
