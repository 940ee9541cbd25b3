// The CUDA bodies of norm.hpp. Forward: a warp a row. Backward: blocks of rows, each with its own partial sum of dw.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/scratch.hpp"
#include "kernels/cuda/sum.hpp"
#include "kernels/norm.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;
constexpr int rows_a_block = threads / warp_width;

// delta and sum are null for the plain norm.
template <class T, class W, int V>
__global__ void forward_kernel(const T* x, std::int64_t x_stride, const T* delta, std::int64_t delta_stride, T* sum,
                               std::int64_t sum_stride, const W* __restrict__ w, float eps, T* __restrict__ y,
                               std::int64_t y_stride, float* __restrict__ rstd, std::int64_t num_rows, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * rows_a_block + threadIdx.x / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  if (row >= num_rows) return;
  x += row * x_stride;
  float squares = 0;
  for (int d = lane * V; d < width; d += warp_width * V) {
    Pack<T, V> p = load_pack<V>(x + d);
    if (delta != nullptr) {
      const Pack<T, V> q = load_pack<V>(delta + row * delta_stride + d);
      for (int i = 0; i < V; ++i) p.v[i] = from_f32<T>(to_f32(p.v[i]) + to_f32(q.v[i]));
      store_pack(sum + row * sum_stride + d, p);
    }
    for (int i = 0; i < V; ++i) squares += to_f32(p.v[i]) * to_f32(p.v[i]);
  }
  const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
  if (rstd != nullptr && lane == 0) rstd[row] = scale;
  const T* const from = delta != nullptr ? sum + row * sum_stride : x;  // each lane reads back what it wrote itself
  for (int d = lane * V; d < width; d += warp_width * V) {
    const Pack<T, V> p = load_pack<V>(from + d);
    const Pack<W, V> weight = load_pack<V>(w + d);
    Pack<T, V> result;
    for (int i = 0; i < V; ++i) result.v[i] = from_f32<T>(to_f32(p.v[i]) * scale * to_f32(weight.v[i]));
    store_pack(y + row * y_stride + d, result);
  }
}

// Block b takes rows b, b + gridDim.x, ...; partial[b, d] = its sum of dy * x * rstd, kept in shared memory by the
// thread that owns column d.
template <class T, class W, int V>
__global__ void backward_kernel(const T* dy, std::int64_t dy_stride, const T* __restrict__ x, std::int64_t x_stride,
                                const W* __restrict__ w, const float* __restrict__ rstd, T* dx, std::int64_t dx_stride,
                                bool accumulate, float* __restrict__ partial, std::int64_t num_rows, int width) {
  extern __shared__ float dw[];
  for (int d = static_cast<int>(threadIdx.x) * V; d < width; d += threads * V) {
    for (int i = 0; i < V; ++i) dw[d + i] = 0;
  }
  for (std::int64_t row = blockIdx.x; row < num_rows; row += gridDim.x) {
    const T* const dy_row = dy + row * dy_stride;
    const T* const x_row = x + row * x_stride;
    T* const dx_row = dx + row * dx_stride;
    const float scale = rstd[row];
    float dot = 0;
    for (int d = static_cast<int>(threadIdx.x) * V; d < width; d += threads * V) {
      const Pack<T, V> g = load_pack<V>(dy_row + d);
      const Pack<T, V> p = load_pack<V>(x_row + d);
      const Pack<W, V> weight = load_pack<V>(w + d);
      for (int i = 0; i < V; ++i) {
        const float gx = to_f32(g.v[i]) * to_f32(p.v[i]);
        dot += gx * to_f32(weight.v[i]);
        dw[d + i] += gx * scale;
      }
    }
    const float pull = block_sum(dot) * scale * scale / static_cast<float>(width);
    for (int d = static_cast<int>(threadIdx.x) * V; d < width; d += threads * V) {
      const Pack<T, V> g = load_pack<V>(dy_row + d);
      const Pack<T, V> p = load_pack<V>(x_row + d);
      const Pack<W, V> weight = load_pack<V>(w + d);
      Pack<T, V> result;
      if (accumulate) result = load_pack<V>(dx_row + d);
      for (int i = 0; i < V; ++i) {
        const float gradient = scale * (to_f32(g.v[i]) * to_f32(weight.v[i]) - pull * to_f32(p.v[i]));
        result.v[i] = from_f32<T>(accumulate ? to_f32(result.v[i]) + gradient : gradient);
      }
      store_pack(dx_row + d, result);
    }
  }
  for (int d = static_cast<int>(threadIdx.x) * V; d < width; d += threads * V) {
    for (int i = 0; i < V; ++i) partial[std::int64_t{blockIdx.x} * width + d + i] = dw[d + i];
  }
}

void forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& delta, const ConstTensorView& w,
             double eps, const TensorView& sum, const TensorView& y, const TensorView& rstd) {
  const std::int64_t num_rows = x.size(0);
  if (num_rows == 0) return;
  with_float_type(x.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(x, delta, w, ConstTensorView(sum), ConstTensorView(y)), [&]<int V>(
                                                                                      std::integral_constant<int, V>) {
      forward_kernel<T, float, V>
          <<<grid_of(ceil_div(num_rows, rows_a_block), std::numeric_limits<int>::max()), threads, 0, stream_of(ctx)>>>(
              device_data<T>(x), x.stride(0), optional_data<T>(delta), delta ? delta.stride(0) : 0,
              optional_data<T>(sum), sum ? sum.stride(0) : 0, device_data<float>(w), static_cast<float>(eps),
              device_data<T>(y), y.stride(0), optional_data<float>(rstd), num_rows, static_cast<int>(x.size(1)));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void rms_norm_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, double eps,
                      const TensorView& y, const TensorView& rstd) {
  forward(ctx, x, {}, w, eps, {}, y, rstd);
}

void add_rms_norm_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& delta,
                          const ConstTensorView& w, double eps, const TensorView& sum, const TensorView& y,
                          const TensorView& rstd) {
  forward(ctx, x, delta, w, eps, sum, y, rstd);
}

void rms_norm_backward(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                       const ConstTensorView& w, const ConstTensorView& rstd, const TensorView& dx, Write write_dx,
                       const TensorView& dw) {
  const std::int64_t num_rows = x.size(0);
  const std::int64_t width = x.size(1);
  if (num_rows == 0) return;
  const std::int64_t blocks = std::min(num_rows, norm_backward_blocks);
  Workspace workspace(ctx);
  const TensorView partial = workspace.take(DType::f32, {blocks, width});
  const std::int64_t shared = width * static_cast<std::int64_t>(sizeof(float));
  with_float_type(x.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(dy, x, w, ConstTensorView(dx)), [&]<int V>(std::integral_constant<int, V>) {
      allow_shared_memory(backward_kernel<T, float, V>, shared);
      backward_kernel<T, float, V><<<grid_of(blocks), threads, static_cast<std::size_t>(shared), stream_of(ctx)>>>(
          device_data<T>(dy), dy.stride(0), device_data<T>(x), x.stride(0), device_data<float>(w),
          device_data<float>(rstd), device_data<T>(dx), dx.stride(0), write_dx == Write::accumulate,
          device_data<float>(partial), num_rows, static_cast<int>(width));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
  add_partial_rows(ctx, partial, dw);
}

}  // namespace photon::cuda
