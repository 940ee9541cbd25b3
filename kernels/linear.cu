// The CUDA bodies of linear.hpp.
#include "kernels/cuda/blas.hpp"
#include "kernels/cuda/gemv.hpp"
#include "kernels/linear.hpp"

namespace photon::cuda {

void linear_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y,
                    const ConstTensorView& added) {
  // Not in deterministic mode: more rows go to cuBLASLt, which adds in another order.
  if (ctx.numerics == Numerics::tuned && gemv_fits(x, w, y)) return gemv_forward(ctx, x, w, y, added);
  multiply(ctx, {.a = x,
                 .b = w,
                 .b_transposed = true,
                 .c = y,
                 .added = added,
                 .row_independent = ctx.numerics == Numerics::deterministic});
}

void linear_backward_input(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& w,
                           const TensorView& dx, Write write) {
  multiply(ctx, {.a = dy,
                 .b = w,
                 .c = dx,
                 .added = added_by(write, dx),
                 .row_independent = ctx.numerics == Numerics::deterministic});
}

void linear_backward_weight(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                            const TensorView& dw, Write write) {
  multiply(ctx, {.a = dy, .a_transposed = true, .b = x, .c = dw, .added = added_by(write, dw)});
}

}  // namespace photon::cuda
