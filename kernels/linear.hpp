// Matrix products with a weight [O, K] (y = x W^T), and their gradients. Operands are f32, or bf16 on a device; y and
// dx have the operands' dtype or f32, dw is f32. Sums are f32.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// Whether an op's result replaces what the output holds or is added to it.
enum class Write { replace, accumulate };

// y[n, o] = added[n, o] + sum_k x[n, k] * w[o, k], or the sum alone where `added` is empty.   x [N, K], w [O, K], y and
// `added` [N, O] of one dtype; they may be the same, and have row strides, as x may.
// Deterministic: the bits of y[n] depend on x[n], added[n] and w alone. N = 0 is allowed.
void linear_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y,
                    const ConstTensorView& added = {});

// dx[n, k] (+)= sum_o dy[n, o] * w[o, k].   dy [N, O], dx [N, K]
void linear_backward_input(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& w,
                           const TensorView& dx, Write write = Write::replace);

// dw[o, k] (+)= sum_n dy[n, o] * x[n, k].   dw [O, K] contiguous. Gradients of weights accumulate by default.
void linear_backward_weight(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                            const TensorView& dw, Write write = Write::accumulate);

// CUDA bodies: linear.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void linear_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y,
                    const ConstTensorView& added = {});
void linear_backward_input(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& w,
                           const TensorView& dx, Write write);
void linear_backward_weight(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                            const TensorView& dw, Write write);
}  // namespace cuda

}  // namespace photon
