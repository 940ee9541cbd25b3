// SwiGLU's elementwise half: the products with gate, up and down are linear ops.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// out[n, f] = silu(gate[n, f]) * up[n, f], silu(x) = x / (1 + exp(-x)). gate_up [N, 2F] = [gate | up], out [N, F].
// `largest`, when given, becomes the largest absolute value of out, for quantize(): f32 [1], devices only.
void swiglu_forward(const Context& ctx, const ConstTensorView& gate_up, const TensorView& out,
                    const TensorView& largest = {});

// dgate_up [N, 2F] is replaced and may alias gate_up. `out` [N, F], when given, becomes what the forward pass made of
// gate_up, which the gradient of the down product's weight needs; it may alias dout. `largest` as above, of dgate_up.
void swiglu_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& gate_up,
                     const TensorView& dgate_up, const TensorView& out = {}, const TensorView& largest = {});

// CUDA bodies: swiglu.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void swiglu_forward(const Context& ctx, const ConstTensorView& gate_up, const TensorView& out,
                    const TensorView& largest = {});
void swiglu_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& gate_up,
                     const TensorView& dgate_up, const TensorView& out = {}, const TensorView& largest = {});
}  // namespace cuda

}  // namespace photon
