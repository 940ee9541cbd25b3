// Stream attention on tensor cores: bf16 heads of width 64 or 128, float32 softmax and sums, linear memory. Which
// keys a query's tile is swept in depends on positions alone, and masked keys add exactly zero: no result depends on
// later positions, or on how many there are. Every sum has one order.
#pragma once

#include "kernels/rope.hpp"
#include "tensor/context.hpp"

namespace photon::cuda {

// Whether the tensors suit these bodies: bf16, width 64 or 128, rows of heads that can be read 16 bytes at a time.
bool flash_fits(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                const ConstTensorView& out);

// As stream_attention_forward and stream_attention_backward (attention.hpp).
void flash_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                   std::int64_t window, const TensorView& out, const TensorView& lse);
void flash_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                    const ConstTensorView& out, const ConstTensorView& lse, const ConstTensorView& dout,
                    std::int64_t window, const TensorView& dq, const TensorView& dk, const TensorView& dv,
                    const RopeTable* table);

}  // namespace photon::cuda
