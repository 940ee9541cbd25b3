// Causal attention inside many short sequences at once: the local decoders, one sequence a group, S positions of up
// to 64.
//
// Shapes: k, v, dk, dv [G, S, Hkv, hd]; q, out, dq, dout [G, Sq, Hq, hd] with Sq <= S: the queries are the last Sq
// positions, query j sits at position S - Sq + j. Dims 0..2 may be strided. The softmax is recomputed in the backward
// pass, nothing is saved.
#pragma once

#include "tensor/context.hpp"

namespace photon {

inline constexpr std::int64_t max_group_positions = 64;

void group_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                             const ConstTensorView& v, const TensorView& out);

// Replaces dq, dk, dv.
void group_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, const ConstTensorView& dout, const TensorView& dq,
                              const TensorView& dk, const TensorView& dv);

// CUDA bodies: group_attention.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void group_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                             const ConstTensorView& v, const TensorView& out);
void group_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, const ConstTensorView& dout, const TensorView& dq,
                              const TensorView& dk, const TensorView& dv);
}  // namespace cuda

}  // namespace photon
