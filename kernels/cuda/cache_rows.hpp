// Attention of a few bf16 queries a row against its cache, bound by reading keys and values once: the query heads that
// share a key head share its loads. Each row is swept in chunks of a fixed number of positions, whose results are
// merged in order; few rows are split into one block a chunk, many rows are not. The bits are the same: a row's result
// depends on its own queries, cache and position alone. Launches depend on the number of rows and the capacity only,
// so calls can be captured in a CUDA graph and replayed with other positions.
#pragma once

#include "kernels/attention_step.hpp"
#include "tensor/context.hpp"

namespace photon::cuda {

// Whether the tensors suit this body: bf16, head width a multiple of 8 up to 128, rows of heads 16-byte aligned.
bool cache_rows_fit(const ConstTensorView& q, const ConstTensorView& cache_k, const ConstTensorView& cache_v,
                    const ConstTensorView& out);

// As cache_attention (cache_attention.hpp). Takes at most cache_rows_scratch bytes of workspace.
void cache_rows_attention(const Context& ctx, const ConstTensorView& q, const ConstTensorView& cache_k,
                          const ConstTensorView& cache_v, const ConstTensorView& slot, const ConstTensorView& first,
                          std::int64_t window, const TensorView& out);

// As attention_step (attention_step.hpp) for one new position a row, in one launch or, with few rows, two: the newest
// key and value go from where they are to the cache and into the sums. The head width must be a multiple of 16.
void cache_rows_step(const Context& ctx, const RopeTable& table, const AttentionStep& step);

}  // namespace photon::cuda
