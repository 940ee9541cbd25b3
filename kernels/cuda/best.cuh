// The largest of a row and where it stands.
#pragma once

#include "kernels/cuda/common.cuh"

namespace photon::cuda {

struct Best {
  float value;
  std::int32_t index;  // INT32_MAX when no value exceeds minus infinity or all are NaN
};

// The larger value; of equal ones that with the lower index.
__device__ inline Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

__device__ inline Best warp_best(Best best) {
  for (int step = warp_width / 2; step > 0; step /= 2) {
    best = better(best, {__shfl_xor_sync(full_warp, best.value, step), __shfl_xor_sync(full_warp, best.index, step)});
  }
  return best;
}

__device__ inline Best no_best() {
  return {-INFINITY, INT32_MAX};
}

// Of every thread's best, known to all threads of a block of up to 1024. Every thread must call it.
__device__ inline Best block_best(Best best) {
  __shared__ Best partial[warp_width];
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int num_warps = static_cast<int>(blockDim.x) / warp_width;
  best = warp_best(best);
  __syncthreads();  // the last call's readers are done
  if (lane == 0) partial[threadIdx.x / warp_width] = best;
  __syncthreads();
  return warp_best(lane < num_warps ? partial[lane] : no_best());
}

// Of x[0 .. n).
template <class T>
__device__ Best block_best(const T* __restrict__ x, int n) {
  Best best = no_best();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    best = better(best, {to_f32(x[i]), i});
  return block_best(best);
}

}  // namespace photon::cuda
