// How groups are laid out as decoder sequences, and the one shift in the model.
//
// B sequences of M groups; G = B * M, group g of sequence b is row b * M + g. C units a group, R prefix vectors, k
// lookback units, S = R + k + C - 1 positions. D is the width of the units. All tensors have one
// dtype, f32, or bf16 on a device; but dstart, a weight's gradient, is f32.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// out[b*M+g] = [u[b*M+g, 0..R-1]; content[b, g*C-k .. g*C-1] (zero before the sequence's start); content[b, g*C ..
// g*C+C-2]]. u [G, R, D], content [B, M*C, D], out [G, S, D]; all contiguous.
void decoder_rows_forward(const Context& ctx, const ConstTensorView& u, const ConstTensorView& content,
                          std::int64_t lookback, const TensorView& out);

// du [G, R, D] replaced; dcontent [B, M*C, D] accumulated (skipped when empty).
void decoder_rows_backward(const Context& ctx, const ConstTensorView& dout, std::int64_t lookback, const TensorView& du,
                           const TensorView& dcontent);

// c[b, 0] = start, c[b, m] = x[b, m - 1]. x, c [B, M, D], start [D].
void shift_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& start, const TensorView& c);

// dx[b, m] += dc[b, m + 1] (dx[b, M-1] += 0); dstart += sum_b dc[b, 0], b ascending.
void shift_backward(const Context& ctx, const ConstTensorView& dc, const TensorView& dx, const TensorView& dstart);

// CUDA bodies: group_rows.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void decoder_rows_forward(const Context& ctx, const ConstTensorView& u, const ConstTensorView& content,
                          std::int64_t lookback, const TensorView& out);
void decoder_rows_backward(const Context& ctx, const ConstTensorView& dout, std::int64_t lookback, const TensorView& du,
                           const TensorView& dcontent);
void shift_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& start, const TensorView& c);
void shift_backward(const Context& ctx, const ConstTensorView& dc, const TensorView& dx, const TensorView& dstart);
}  // namespace cuda

}  // namespace photon
