// The CUDA body of top_tokens.hpp: a block a row, as many threads as a draw has, so that sums have its bits. Each
// thread keeps the best of what it sees; the block then takes the best of all threads' best, as often as tokens are
// wanted.
#include "kernels/cuda/best.cuh"
#include "kernels/cuda/row_exp_sum.cuh"
#include "kernels/top_tokens.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 512;
constexpr int most = static_cast<int>(most_top_tokens);

__global__ void __launch_bounds__(threads)
    top_kernel(const float* __restrict__ logits, std::int64_t stride, int n, int count,
               std::int32_t* __restrict__ tokens, float* __restrict__ logprobs) {
  const std::int64_t r = blockIdx.x;
  const float* const x = logits + r * stride;
  Best own[most];  // in order
#pragma unroll
  for (int i = 0; i < most; ++i) own[i] = no_best();
  int finite = 0;
  int broken = 0;
  for (int v = static_cast<int>(threadIdx.x); v < n; v += threads) {
    const float value = x[v];
    finite |= isfinite(value) ? 1 : 0;
    broken |= isnan(value) || value == INFINITY ? 1 : 0;
    Best one{value, v};
#pragma unroll
    for (int i = 0; i < most; ++i) {
      const Best kept = better(own[i], one);
      one = kept.index == one.index ? own[i] : one;
      own[i] = kept;
    }
  }
  const bool usable = __syncthreads_or(finite) != 0 && __syncthreads_or(broken) == 0;
  float largest = 0;
  double log_sum = 0;
  for (int place = 0; place < count; ++place) {
    const Best best = block_best(own[0]);
    if (place == 0 && usable) {
      largest = best.value;
      log_sum = log(row_exp_sum(x, n, largest));
    }
    if (threadIdx.x == 0) {
      const bool there = usable && best.index != INT32_MAX;
      tokens[r * count + place] = there ? best.index : -1;
      logprobs[r * count + place] =
          there ? static_cast<float>(static_cast<double>(best.value) - static_cast<double>(largest) - log_sum) : 0.0F;
    }
    if (own[0].index != best.index) continue;
#pragma unroll
    for (int i = 0; i + 1 < most; ++i) own[i] = own[i + 1];
    own[most - 1] = no_best();
  }
}

}  // namespace

void top_tokens(const Context& ctx, const ConstTensorView& logits, const TensorView& tokens,
                const TensorView& logprobs) {
  const std::int64_t rows = logits.size(0);
  if (rows == 0) return;
  top_kernel<<<static_cast<unsigned>(rows), threads, 0, stream_of(ctx)>>>(
      device_data<float>(logits), logits.stride(0), static_cast<int>(logits.size(1)), static_cast<int>(tokens.size(1)),
      device_data<std::int32_t>(tokens), device_data<float>(logprobs));
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
