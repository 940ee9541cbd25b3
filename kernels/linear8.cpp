#include "kernels/linear8.hpp"

#include "kernels/checks.hpp"

namespace photon {
namespace {

void expect_result(const Context& ctx, const TensorView& view, DType dtype, const Shape& shape, const char* what) {
  PHOTON_EXPECT(ctx.space == Space::device, "a product of 8-bit floats in {} memory", name_of(ctx.space));
  expect_tensor(ctx, view, result_type(view, dtype), shape, what);
}

}  // namespace

void linear8_forward(const Context& ctx, const Quantized& x, const Quantized& w, const TensorView& y,
                     const ConstTensorView& added) {
  expect_rank(ctx, x.values, DType::u8, 2, "x");
  expect_rank(ctx, w.values, DType::u8, 2, "w");
  expect_shape(w.values, {w.values.size(0), x.values.size(1)}, "w");
  expect_result(ctx, y, DType::bf16, {x.values.size(0), w.values.size(0)}, "y");
  if (added) expect_tensor(ctx, added, y.dtype(), y.shape(), "added");
  cuda::linear8_forward(ctx, x, w, y, added);
}

void linear8_backward_input(const Context& ctx, const Quantized& dy, const Quantized& w, const TensorView& dx,
                            Write write) {
  expect_rank(ctx, dy.values, DType::u8, 2, "dy");
  expect_rank(ctx, w.transposed, DType::u8, 2, "w transposed");
  expect_shape(w.transposed, {w.transposed.size(0), dy.values.size(1)}, "w transposed");
  expect_result(ctx, dx, DType::bf16, {dy.values.size(0), w.transposed.size(0)}, "dx");
  cuda::linear8_backward_input(ctx, dy, w, dx, write);
}

void linear8_backward_weight(const Context& ctx, const Quantized& dy, const Quantized& x, const TensorView& dw,
                             Write write) {
  expect_rank(ctx, dy.transposed, DType::u8, 2, "dy transposed");
  expect_rank(ctx, x.transposed, DType::u8, 2, "x transposed");
  expect_shape(x.transposed, {x.transposed.size(0), dy.transposed.size(1)}, "x transposed");
  expect_result(ctx, dw, DType::f32, {dy.transposed.size(0), x.transposed.size(0)}, "dw");
  expect_contiguous(dw, "dw");
  cuda::linear8_backward_weight(ctx, dy, x, dw, write);
}

}  // namespace photon
