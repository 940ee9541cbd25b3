// From logits to tokens inside a macro-step: what `sample` does (sampling.hpp), with everything it needs in the memory
// of the context's space and nothing for the host to wait for. Rows do not see each other.
#pragma once

#include "kernels/sampling.hpp"
#include "tensor/context.hpp"

namespace photon {

inline constexpr std::int32_t draw_token = -1;    // in `forced`: the token is not given, draw it
inline constexpr std::int32_t failed_token = -1;  // in `chosen`: the row's logits are not finite

// How a row draws, as it lies in memory: the options, and the key of its token at offset 0.
struct DrawRow {
  double temperature = 0.0;
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  std::uint64_t seed = 0;
  std::uint64_t request = 0;
  std::uint64_t sample = 0;
  std::int64_t position = 0;  // of the row's token at offset 0, prompt included
  std::int64_t top_k = 0;
  std::int64_t slot = 0;  // the row of `history` that holds its tokens
};
DrawRow draw_row(const SamplingOptions& options, const SampleKey& key, std::int64_t slot);

struct DrawCall {
  TensorView logits;       // [n, V] f32, rows may be strided; empty when every token is forced. May be overwritten
  ConstTensorView rows;    // [n * sizeof(DrawRow)] u8
  ConstTensorView forced;  // [n] i32: a token, or draw_token
  TensorView history;      // [slots, capacity] i32: the tokens of every slot by position
  std::int64_t offset = 0;
  TensorView tokens;    // [n] i32: what the model reads next; 0 where the row failed
  TensorView chosen;    // [n] i32: the same, failed_token where the row failed
  TensorView logprobs;  // [n] f32 or empty: of the raw logits at drawn tokens, 0 at forced ones
  // Where something reads them: x[r] = table[tokens[r]]. table [V', D], x [n, D], rows may be strided; both may be
  // empty.
  ConstTensorView table;
  TensorView x;
};

// The token of every row at position + offset; it is also written to the row's history. The repetition penalty applies
// to the history before it. Several rows may name one slot at different positions. Random numbers are those of
// sample_uniform() on every backend. Errors: ContractError for options out of range or positions outside the history
// (both checked on the host only).
void draw_tokens(const Context& ctx, const DrawCall& call);

// CUDA body: draw.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void draw_tokens(const Context& ctx, const DrawCall& call);
}  // namespace cuda

}  // namespace photon
