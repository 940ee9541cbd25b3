// Causal attention inside many short sequences at once: the local decoders, one sequence a group, S positions of up
// to 64.
//
// Shapes: k, v, dk, dv [G, S, Hkv, hd]; q, out, dq, dout [G, Sq, Hq, hd] with Sq <= S: the queries are the last Sq
// positions, query j sits at position S - Sq + j. Dims 0..2 may be strided. The softmax is recomputed in the backward
// pass, nothing is saved.
//
// With a rope table, q and k come unrotated, and the op turns them by their position in the group as it reads them; dq
// and dk are then the gradients of the unrotated q and k. The table holds at least S positions, in the op's space.
#pragma once

#include "kernels/rope.hpp"
#include "tensor/context.hpp"

namespace photon {

inline constexpr std::int64_t max_group_positions = 64;

void group_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                             const ConstTensorView& v, const TensorView& out, const RopeTable* table = nullptr);

// Replaces dq, dk, dv.
void group_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, const ConstTensorView& dout, const TensorView& dq,
                              const TensorView& dk, const TensorView& dv, const RopeTable* table = nullptr);

// CUDA bodies: group_attention.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void group_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                             const ConstTensorView& v, const TensorView& out, const RopeTable* table);
void group_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, const ConstTensorView& dout, const TensorView& dq,
                              const TensorView& dk, const TensorView& dv, const RopeTable* table);
}  // namespace cuda

}  // namespace photon
