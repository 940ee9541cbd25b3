// The matrix products of linear.hpp on 8-bit floats, each with the scale of its operands. On a device that multiplies
// 8-bit floats (cuda::has_float8()). Sums are f32; y and dx are bf16 or f32, dw is f32.
#pragma once

#include "kernels/linear.hpp"
#include "kernels/quantize.hpp"

namespace photon {

// y[n, o] = added[n, o] + sum_k x[n, k] * w[o, k], as linear_forward().   Reads x.values [N, K] and w.values [O, K].
// The tensor cores of Hopper keep 14 bits of a sum here; in the gradients below they move partial sums to f32 in
// between.
void linear8_forward(const Context& ctx, const Quantized& x, const Quantized& w, const TensorView& y,
                     const ConstTensorView& added = {});

// dx[n, k] (+)= sum_o dy[n, o] * w[o, k].   Reads dy.values [N, O] and w.transposed [K, O].
void linear8_backward_input(const Context& ctx, const Quantized& dy, const Quantized& w, const TensorView& dx,
                            Write write = Write::replace);

// dw[o, k] (+)= sum_n dy[n, o] * x[n, k].   Reads dy.transposed [O, N] and x.transposed [K, N].
void linear8_backward_weight(const Context& ctx, const Quantized& dy, const Quantized& x, const TensorView& dw,
                             Write write = Write::accumulate);

// CUDA bodies: linear8.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void linear8_forward(const Context& ctx, const Quantized& x, const Quantized& w, const TensorView& y,
                     const ConstTensorView& added = {});
void linear8_backward_input(const Context& ctx, const Quantized& dy, const Quantized& w, const TensorView& dx,
                            Write write);
void linear8_backward_weight(const Context& ctx, const Quantized& dy, const Quantized& x, const TensorView& dw,
                             Write write);
}  // namespace cuda

}  // namespace photon
