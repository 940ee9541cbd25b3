// What the tensor-core bodies of stream attention share.
#pragma once

#include <cmath>

#include "kernels/cuda/flash.hpp"
#include "kernels/cuda/mma.cuh"

namespace photon::cuda::flash {

// One (sequence, head) of a [B, N, H, hd] tensor is at(b, h); its positions lie `position` elements apart.
template <class T>
struct Heads {
  T* data;
  std::int64_t batch;
  std::int64_t position;
  std::int64_t head;
  __device__ T* at(std::int64_t b, std::int64_t h) const { return data + b * batch + h * head; }
};
inline Heads<const bf16> heads_of(const ConstTensorView& x) {
  return {device_data<bf16>(x), x.stride(0), x.stride(1), x.stride(2)};
}
inline Heads<bf16> heads_of(const TensorView& x) {
  return {device_data<bf16>(x), x.stride(0), x.stride(1), x.stride(2)};
}

struct Sizes {
  int positions;  // N
  int window;     // 0: none
  int heads_a_key;
  float scale;
  float scale_log2;  // scale / ln 2: scores times this are powers of two
};

inline constexpr double ln2 = 0.693147180559945309417232121458;

inline Sizes sizes_of(const ConstTensorView& q, const ConstTensorView& k, std::int64_t window) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  return {.positions = static_cast<int>(q.size(1)),
          .window = static_cast<int>(std::min<std::int64_t>(window, q.size(1))),
          .heads_a_key = static_cast<int>(q.size(2) / k.size(2)),
          .scale = static_cast<float>(scale),
          .scale_log2 = static_cast<float>(scale / ln2)};
}

__device__ inline bool sees(int query, int key, const Sizes& s) {
  return key <= query && (s.window == 0 || key > query - s.window);
}
// Whether every query of [first, last] sees every key of [first_key, last_key].
__device__ inline bool all_seen(int first, int last, int first_key, int last_key, const Sizes& s) {
  return last_key <= first && (s.window == 0 || first_key > last - s.window);
}
__device__ inline bool none_seen(int first, int last, int first_key, int last_key, const Sizes& s) {
  return first_key > last || (s.window > 0 && last_key <= first - s.window);
}

// The largest and the sum over the four lanes that share a row of a product.
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(full_warp, x, 1));
  return fmaxf(x, __shfl_xor_sync(full_warp, x, 2));
}
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(full_warp, x, 1);
  return x + __shfl_xor_sync(full_warp, x, 2);
}

// The forward pass on Hopper's own matrix units (flash_forward_hopper.cu); false, with nothing launched, where it
// cannot run.
template <int Width>
bool forward_on_hopper(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                       const Sizes& s, const TensorView& out, const TensorView& lse);

}  // namespace photon::cuda::flash
