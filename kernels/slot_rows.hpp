// Rows of state that sequences in slots keep between macro-steps, moved by index.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// to[index[n]] = x[n]: x [N, D] and to [S, D] f32, bf16 or i32 (rows may be strided), index [N] i32. Where an index
// comes twice, one of its rows is kept. (Gathering is embedding_forward.)
void scatter_rows(const Context& ctx, const ConstTensorView& x, const ConstTensorView& index, const TensorView& to);

// The k tokens before each row's position: tokens[n, i] = history[slot[n], position[n] + offset - k + i], or `missing`
// where that lies before the sequence's start. history [S, capacity] i32, slot, position [N] i32, tokens [N, k] i32.
void recent_tokens(const Context& ctx, const ConstTensorView& history, const ConstTensorView& slot,
                   const ConstTensorView& position, std::int64_t offset, std::int32_t missing,
                   const TensorView& tokens);

// out[n, i] = table[tokens[n, i]], zero where the token is negative. table [V, D], tokens [N, k] i32, out [N, k, D],
// rows of `out` may be strided.
void embed_or_zero(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                   const TensorView& out);

// x[n] += by, i32.
void shift_indices(const Context& ctx, const TensorView& x, std::int32_t by);

// CUDA bodies: slot_rows.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void scatter_rows(const Context& ctx, const ConstTensorView& x, const ConstTensorView& index, const TensorView& to);
void recent_tokens(const Context& ctx, const ConstTensorView& history, const ConstTensorView& slot,
                   const ConstTensorView& position, std::int64_t offset, std::int32_t missing,
                   const TensorView& tokens);
void embed_or_zero(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                   const TensorView& out);
void shift_indices(const Context& ctx, const TensorView& x, std::int32_t by);
}  // namespace cuda

}  // namespace photon
