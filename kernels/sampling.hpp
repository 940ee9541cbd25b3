// From logits to a token, a row at a time. Rows do not see each other.
#pragma once

#include <span>

#include "tensor/context.hpp"

namespace photon {

// Applied in this order: repetition penalty, temperature, top-k, top-p, min-p; then one draw.
struct SamplingOptions {
  double temperature = 0.0;  // 0 = greedy: the lowest index of the largest logit, after the penalty
  std::int64_t top_k = 0;    // keep the k most likely; 0 = off. Ties at the edge go to the lower index
  double top_p = 1.0;        // keep the smallest set of most likely tokens whose probability reaches p; 1 = off. The
                             // probabilities are those after top-k, renormalised
  double min_p = 0.0;        // keep tokens of at least min_p times the largest probability; 0 = off
  double repetition_penalty =
      1.0;  // logits of tokens already seen: positive ones divided, negative ones multiplied by it
};

// Names one draw; the random number is a pure function of it (spec: seed, request id, sample, token position).
struct SampleKey {
  std::uint64_t seed = 0;
  std::uint64_t request = 0;  // hash_name of the request's id
  std::uint64_t sample = 0;
  std::uint64_t position = 0;  // of the token in its sequence, prompt included
};

// The uniform number in [0, 1) that this draw uses, on every backend. The draw takes the first of the kept tokens, in
// order of descending probability and then ascending index, at which their running sum of probabilities exceeds
// sample_uniform * (the sum of all that were kept).
double sample_uniform(const SampleKey& key);

struct SampleRow {
  SamplingOptions options;
  SampleKey key;
  std::span<const std::int32_t>
      seen;  // tokens the repetition penalty applies to (prompt and output); read only when != 1
};

// tokens[n] from logits [N, V] f32; tokens [N] i32 in host memory. logprobs: [N] f32 host or empty, natural logarithm
// of the softmax of the raw logits (before any option) at the chosen token. Errors: InputError for a row without a
// finite logit.
void sample(const Context& ctx, const ConstTensorView& logits, std::span<const SampleRow> rows,
            const TensorView& tokens, const TensorView& logprobs);

// CUDA bodies: sampling.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void sample(const Context& ctx, const ConstTensorView& logits, std::span<const SampleRow> rows,
            const TensorView& tokens, const TensorView& logprobs);
}  // namespace cuda

}  // namespace photon
