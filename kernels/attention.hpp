// Causal attention with grouped queries over one long stream a sequence, scale 1/sqrt(hd). Online softmax in tiles:
// memory is linear in N.
//
// Shapes: q, out, dq, dout [B, N, Hq, hd]; k, v, dk, dv [B, N, Hkv, hd]; lse [B, Hq, N] f32. Hq is a multiple of Hkv;
// query head h reads key head h / (Hq / Hkv). All but lse may be strided in dims 0..2, so q, k, v may be slices of one
// fused buffer. window w > 0: query i sees keys i-w+1 .. i; 0: all of 0 .. i.
#pragma once

#include "kernels/rope.hpp"
#include "tensor/context.hpp"

namespace photon {

// out = softmax(q k^T / sqrt(hd), masked) v; lse = the log-sum-exp of each row, for the backward pass (may be empty).
void stream_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, std::int64_t window, const TensorView& out,
                              const TensorView& lse);

// Replaces dq, dk, dv. With a rope table, q and k are taken to have been turned by their position (rope()), and dq and
// dk are the gradients of what was turned; the table holds N positions, in the op's space.
void stream_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                               const ConstTensorView& v, const ConstTensorView& out, const ConstTensorView& lse,
                               const ConstTensorView& dout, std::int64_t window, const TensorView& dq,
                               const TensorView& dk, const TensorView& dv, const RopeTable* table = nullptr);

// CUDA bodies: attention.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void stream_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, std::int64_t window, const TensorView& out,
                              const TensorView& lse);
void stream_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                               const ConstTensorView& v, const ConstTensorView& out, const ConstTensorView& lse,
                               const ConstTensorView& dout, std::int64_t window, const TensorView& dq,
                               const TensorView& dk, const TensorView& dv, const RopeTable* table = nullptr);
}  // namespace cuda

}  // namespace photon
