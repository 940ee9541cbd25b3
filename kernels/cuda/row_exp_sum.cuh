// The sum that a softmax's logarithm needs, of a row of logits.
#pragma once

#include "kernels/cuda/common.cuh"

namespace photon::cuda {

// Of exp(x[v] - largest) over x[0 .. n), known to all threads of the block, which all call it. Its bits depend on the
// number of threads.
__device__ inline double row_exp_sum(const float* __restrict__ x, int n, float largest) {
  double mine = 0;
  for (int v = static_cast<int>(threadIdx.x); v < n; v += static_cast<int>(blockDim.x))
    mine += static_cast<double>(expf(x[v] - largest));
  return block_sum(mine);
}

}  // namespace photon::cuda
