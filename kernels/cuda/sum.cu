#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sum.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;
constexpr int summing_threads = 1024;

__global__ void sum_kernel(const double* __restrict__ values, std::int64_t n, double* __restrict__ total) {
  double mine = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) mine += values[i];
  const double sum = block_sum(mine);
  if (threadIdx.x == 0) *total = sum;
}

template <class W>
__global__ void add_partial_rows_kernel(const float* __restrict__ partial, std::int64_t blocks, std::int64_t width,
                                        W* __restrict__ dw) {
  const std::int64_t d = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (d >= width) return;
  float sum = 0;
  for (std::int64_t b = 0; b < blocks; ++b) sum += partial[b * width + d];
  dw[d] = from_f32<W>(to_f32(dw[d]) + sum);
}

}  // namespace

double sum_on_host(const Context& ctx, const ConstTensorView& values) {
  if (values.numel() == 0) return 0;
  Workspace workspace(ctx);
  const TensorView total = workspace.take(DType::f64, {1});
  sum_kernel<<<1, summing_threads, 0, stream_of(ctx)>>>(device_data<double>(values), values.numel(),
                                                        device_data<double>(total));
  PHOTON_CUDA_CHECK(cudaGetLastError());
  double result = 0;
  PHOTON_CUDA_CHECK(cudaMemcpyAsync(&result, total.data(), sizeof(double), cudaMemcpyDeviceToHost, stream_of(ctx)));
  PHOTON_CUDA_CHECK(cudaStreamSynchronize(stream_of(ctx)));
  return result;
}

void add_partial_rows(const Context& ctx, const ConstTensorView& partial, const TensorView& dw) {
  const std::int64_t width = partial.size(1);
  with_float_type(dw.dtype(), [&]<class W>(W) {
    add_partial_rows_kernel<<<grid_of(ceil_div(width, threads)), threads, 0, stream_of(ctx)>>>(
        device_data<float>(partial), partial.size(0), width, device_data<W>(dw));
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
