// RMSNorm.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// rstd[n] = 1 / sqrt(mean_d x[n, d]^2 + eps);  y[n, d] = x[n, d] * rstd[n] * w[d].
// x, y [N, D] (row strides allowed) f32, or bf16 on a device; w [D] and rstd [N] f32 always. `rstd` may be empty when
// no backward follows. `largest`, when given, becomes the largest absolute value of y, for quantize(): f32 [1], devices
// only.
void rms_norm_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, double eps,
                      const TensorView& y, const TensorView& rstd, const TensorView& largest = {});

// dx = before + the gradient of x, or that alone where `before` is empty, and dw (accumulated) from dy; x is what the
// forward normalised. dx may alias `before`, or dy where there is none. `y`, when given, becomes what the forward made
// of x, bit for bit: [N, D], no alias of the others. `largest` as above, of dx.
void rms_norm_backward(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                       const ConstTensorView& w, const ConstTensorView& rstd, const ConstTensorView& before,
                       const TensorView& dx, const TensorView& dw, const TensorView& y = {},
                       const TensorView& largest = {});

// CUDA bodies: norm.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void rms_norm_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, double eps,
                      const TensorView& y, const TensorView& rstd, const TensorView& largest = {});
void rms_norm_backward(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                       const ConstTensorView& w, const ConstTensorView& rstd, const ConstTensorView& before,
                       const TensorView& dx, const TensorView& dw, const TensorView& y = {},
                       const TensorView& largest = {});
}  // namespace cuda

}  // namespace photon
