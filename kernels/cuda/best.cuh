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

// Of x[0 .. n), known to all threads of a block of up to 1024. Every thread must call it.
__device__ inline Best block_best(const float* __restrict__ x, int n) {
  __shared__ Best partial[warp_width];
  const Best none{-INFINITY, INT32_MAX};
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int num_warps = static_cast<int>(blockDim.x) / warp_width;
  Best best = none;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) best = better(best, {x[i], i});
  best = warp_best(best);
  __syncthreads();  // the last call's readers are done
  if (lane == 0) partial[threadIdx.x / warp_width] = best;
  __syncthreads();
  return warp_best(lane < num_warps ? partial[lane] : none);
}

}  // namespace photon::cuda
