// Attention against key/value caches, for incremental decoding.
//
// A cache holds `slots` sequences: k, v [slots, capacity, Hkv, hd]. Contiguous caches keep position p at index p; ring
// caches (capacity = the window) at p mod capacity. Row r of a call works on sequence slot[r]; its P new positions
// start at first[r]. Rows do not see each other; a row's bits do not depend on the others.
#pragma once

#include "tensor/context.hpp"

namespace photon {

// Writes the new keys and values into the caches: k, v [n, P, Hkv, hd] (dims 0..2 may be strided), slot [n] i32, first
// [n] i32. Positions beyond capacity wrap (position mod capacity), which is the ring's rule and an error in a
// contiguous cache's plan. When P > capacity only the last `capacity` positions are kept.
void cache_append(const Context& ctx, const ConstTensorView& k, const ConstTensorView& v, const ConstTensorView& slot,
                  const ConstTensorView& first, const TensorView& cache_k, const TensorView& cache_v);

// out[r, p] = attention of query p of row r, at position i = first[r] + p, over the cached positions max(0, i-w+1) .. i
// (w = window, or i + 1 when window = 0). q, out [n, P, Hq, hd]. The new keys must have been appended. P > 1 needs
// first[r] + P <= capacity (no wrapped ring), P = 1 works for both kinds.
void cache_attention(const Context& ctx, const ConstTensorView& q, const ConstTensorView& cache_k,
                     const ConstTensorView& cache_v, const ConstTensorView& slot, const ConstTensorView& first,
                     std::int64_t window, const TensorView& out);

// CUDA bodies: cache_attention.cu; a build without CUDA links kernels/not_configured.stub.cpp.
namespace cuda {
void cache_append(const Context& ctx, const ConstTensorView& k, const ConstTensorView& v, const ConstTensorView& slot,
                  const ConstTensorView& first, const TensorView& cache_k, const TensorView& cache_v);
void cache_attention(const Context& ctx, const ConstTensorView& q, const ConstTensorView& cache_k,
                     const ConstTensorView& cache_v, const ConstTensorView& slot, const ConstTensorView& first,
                     std::int64_t window, const TensorView& out);
}  // namespace cuda

}  // namespace photon
