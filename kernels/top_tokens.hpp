// The likeliest tokens of each row of logits and their log-probabilities. Rows do not see each other.
#pragma once

#include "tensor/context.hpp"

namespace photon {

inline constexpr std::int64_t most_top_tokens = 5;

// tokens [n, N] i32: row i's N largest logits, the largest first, of equal ones the lower index; logprobs [n, N] f32:
// natural logarithms of their softmax over the row, to the bit what draw_tokens() gives for the same token. 1 <= N <=
// most_top_tokens; places beyond the vocabulary, and rows whose logits are not finite, have token -1 and logprob 0.
// logits [n, V] f32, rows may be strided. Deterministic on every backend.
void top_tokens(const Context& ctx, const ConstTensorView& logits, const TensorView& tokens,
                const TensorView& logprobs);

// CUDA body: top_tokens.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void top_tokens(const Context& ctx, const ConstTensorView& logits, const TensorView& tokens,
                const TensorView& logprobs);
}  // namespace cuda

}  // namespace photon
