#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sum.hpp"

namespace photon::cuda {
namespace {

constexpr int summing_threads = 1024;

__global__ void sum_kernel(const double* __restrict__ values, std::int64_t n, double* __restrict__ total, bool add) {
  double mine = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) mine += values[i];
  const double sum = block_sum(mine);
  if (threadIdx.x == 0) *total = add ? *total + sum : sum;
}

constexpr int summing_columns = 32;
constexpr int summing_rows = 32;

// A block sums 32 columns: thread row r the rows r, r + 32, ..., whose sums are added in order of r.
template <class W>
__global__ void add_partial_rows_kernel(const float* __restrict__ partial, std::int64_t blocks, std::int64_t width,
                                        W* __restrict__ dw) {
  __shared__ float sums[summing_rows][summing_columns + 1];
  const std::int64_t d = std::int64_t{blockIdx.x} * summing_columns + threadIdx.x;
  float sum = 0;
  if (d < width) {
    for (std::int64_t b = threadIdx.y; b < blocks; b += summing_rows) sum += partial[b * width + d];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || d >= width) return;
  for (int r = 1; r < summing_rows; ++r) sum += sums[r][threadIdx.x];
  dw[d] = from_f32<W>(to_f32(dw[d]) + sum);
}

void launch_sum(const Context& ctx, const ConstTensorView& values, const TensorView& total, bool add) {
  sum_kernel<<<1, summing_threads, 0, stream_of(ctx)>>>(device_data<double>(values), values.numel(),
                                                        device_data<double>(total), add);
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void add_sum(const Context& ctx, const ConstTensorView& values, const TensorView& total) {
  if (values.numel() > 0) launch_sum(ctx, values, total, true);
}

double sum_on_host(const Context& ctx, const ConstTensorView& values) {
  if (values.numel() == 0) return 0;
  Workspace workspace(ctx);
  const TensorView total = workspace.take(DType::f64, {1});
  launch_sum(ctx, values, total, false);
  double result = 0;
  copy(ctx.stream, total, host_view(&result, {1}));
  return result;
}

void add_partial_rows(const Context& ctx, const ConstTensorView& partial, const TensorView& dw) {
  const std::int64_t width = partial.size(1);
  with_float_type(dw.dtype(), [&]<class W>(W) {
    const dim3 block(summing_columns, summing_rows);
    add_partial_rows_kernel<<<grid_of(ceil_div(width, summing_columns)), block, 0, stream_of(ctx)>>>(
        device_data<float>(partial), partial.size(0), width, device_data<W>(dw));
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
