#include "kernels/linear.hpp"

#include "kernels/checks.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/elementwise.hpp"

namespace photon {

namespace {

// [rows, k] as it lies, and its transpose.
cpu::Matrix plain(const ConstTensorView& x) {
  return {x.host<float>(), x.stride(0), 1, x.size(0)};
}
cpu::Matrix transposed(const ConstTensorView& x) {
  return {x.host<float>(), 1, x.stride(0), x.size(1)};
}

}  // namespace

void linear_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y,
                    const ConstTensorView& added) {
  const DType dtype = activation_type(ctx, x, "x");
  expect_rank(ctx, x, dtype, 2, "x");
  expect_rank(ctx, w, dtype, 2, "w");
  expect_shape(w, {w.size(0), x.size(1)}, "w");
  expect_tensor(ctx, y, result_type(y, dtype), {x.size(0), w.size(0)}, "y");
  if (added) expect_tensor(ctx, added, y.dtype(), y.shape(), "added");
  if (ctx.space == Space::device) return cuda::linear_forward(ctx, x, w, y, added);
  if (y.numel() == 0) return;
  if (added && added.data() != y.data()) copy_elements(ctx, added, y);
  cpu::matmul(ctx.numerics, plain(x), plain(w), x.size(1), y.host<float>(), y.stride(0), static_cast<bool>(added));
}

void linear_backward_input(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& w,
                           const TensorView& dx, Write write) {
  const DType dtype = activation_type(ctx, dy, "dy");
  expect_rank(ctx, dy, dtype, 2, "dy");
  expect_rank(ctx, w, dtype, 2, "w");
  expect_shape(w, {dy.size(1), w.size(1)}, "w");
  expect_tensor(ctx, dx, result_type(dx, dtype), {dy.size(0), w.size(1)}, "dx");
  if (ctx.space == Space::device) return cuda::linear_backward_input(ctx, dy, w, dx, write);
  if (dx.numel() == 0) return;
  cpu::matmul(ctx.numerics, plain(dy), transposed(w), dy.size(1), dx.host<float>(), dx.stride(0),
              write == Write::accumulate);
}

void linear_backward_weight(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                            const TensorView& dw, Write write) {
  const DType dtype = activation_type(ctx, dy, "dy");
  expect_rank(ctx, dy, dtype, 2, "dy");
  expect_rank(ctx, x, dtype, 2, "x");
  expect_shape(x, {dy.size(0), x.size(1)}, "x");
  expect_tensor(ctx, dw, DType::f32, {dy.size(1), x.size(1)}, "dw");
  expect_contiguous(dw, "dw");
  if (ctx.space == Space::device) return cuda::linear_backward_weight(ctx, dy, x, dw, write);
  if (dw.numel() == 0) return;
  cpu::matmul(ctx.numerics, transposed(dy), transposed(x), dy.size(0), dw.host<float>(), dw.stride(0),
              write == Write::accumulate);
}

}  // namespace photon
