// Attention of new positions against caches, as one step of incremental decoding needs it: rotate, append, attend.
#pragma once

#include "kernels/rope.hpp"
#include "tensor/context.hpp"

namespace photon {

// n rows with P new positions each, at first[r] .. first[r] + P - 1 of sequence slot[r]; the queries are those of the
// last Q of them, 1 or P. Caches as in cache_attention.hpp: contiguous, or a ring of `window` positions when P = 1.
struct AttentionStep {
  TensorView q;           // [n, Q, Hq, hd], dims 0..2 may be strided; may be overwritten, like k
  TensorView k;           // [n, P, Hkv, hd], likewise
  ConstTensorView v;      // [n, P, Hkv, hd], likewise
  ConstTensorView slot;   // [n] i32
  ConstTensorView first;  // [n] i32
  TensorView cache_k;     // [slots, capacity, Hkv, hd]
  TensorView cache_v;
  std::int64_t window = 0;
  bool local = false;  // a local decoder's short sequences: a row's bits depend on this, and not on the capacity
  TensorView out;      // [n, Q, Hq, hd]
};

// Rotates queries and keys, appends keys and values to the caches, and attends to the cached positions each query sees.
// A row's bits do not depend on the other rows. The table must reach all positions.
void attention_step(const Context& ctx, const RopeTable& table, const AttentionStep& step);

// The first length[s] positions of sequence s as positions 0 .. of slot[s], for n sequences in one call; a ring keeps
// the last `capacity` of them. k, v [n, P, Hkv, hd] (rotated), slot, length [n] i32.
void cache_fill(const Context& ctx, const ConstTensorView& k, const ConstTensorView& v, const ConstTensorView& slot,
                const ConstTensorView& length, const TensorView& cache_k, const TensorView& cache_v);

// CUDA bodies: attention_step.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void attention_step(const Context& ctx, const RopeTable& table, const AttentionStep& step);
void cache_fill(const Context& ctx, const ConstTensorView& k, const ConstTensorView& v, const ConstTensorView& slot,
                const ConstTensorView& length, const TensorView& cache_k, const TensorView& cache_v);
}  // namespace cuda

}  // namespace photon
