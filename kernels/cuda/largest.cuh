// The largest absolute value of what a kernel writes, found on the way: a maximum does not depend on an order.
#pragma once

#include "kernels/cuda/common.cuh"

namespace photon::cuda {

// The bits of |x| as an integer, ordered as the floats are; infinity follows, NaN comes last.
template <class T>
__device__ inline unsigned larger(unsigned so_far, T x) {
  return max(so_far, __float_as_uint(to_f32(x)) & 0x7fffffffU);
}
template <class T>
__device__ inline unsigned larger(unsigned so_far, const HeldPack<T>& pack) {
  for (int i = 0; i < HeldPack<T>::num_pairs; ++i) {
    const float2 x = pack.pair(i);
    so_far = larger(larger(so_far, x.x), x.y);
  }
  return so_far;
}

// Raises *largest to the largest `bits` of a warp, all of whose lanes call it.
__device__ inline void raise_by_warp(unsigned* largest, unsigned bits) {
  bits = __reduce_max_sync(full_warp, bits);
  if (threadIdx.x % warp_width != 0) return;
  // Most find it high enough already: atomics on one address would queue up.
  if (bits > *static_cast<volatile unsigned*>(largest)) atomicMax(largest, bits);
}
// The same of a block.
__device__ inline void raise_by_block(unsigned* largest, unsigned bits) {
  __shared__ unsigned of_warp[warp_width];
  bits = __reduce_max_sync(full_warp, bits);
  if (threadIdx.x % warp_width == 0) of_warp[threadIdx.x / warp_width] = bits;
  __syncthreads();
  if (threadIdx.x < warp_width) {
    raise_by_warp(largest, threadIdx.x < blockDim.x / warp_width ? of_warp[threadIdx.x] : 0);
  }
}

// Where a kernel finds the largest value, set to zero before it; nullptr where nobody asks.
inline unsigned* cleared_largest(const Context& ctx, const TensorView& largest) {
  if (!largest) return nullptr;
  PHOTON_CUDA_CHECK(cudaMemsetAsync(largest.data(), 0, sizeof(float), stream_of(ctx)));
  return reinterpret_cast<unsigned*>(device_data<float>(largest));
}

}  // namespace photon::cuda
