// The CUDA bodies of rec_loss.hpp: a warp a unit.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sum.hpp"
#include "kernels/rec_loss.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;
constexpr int rows_a_block = threads / warp_width;
constexpr float smallest_product = 1e-12F;  // of two norms in the cosine's denominator

struct Dots {
  float yx;
  float yy;
  float xx;
};

template <class T, int V>
__device__ Dots dots_of(const T* __restrict__ y, const T* __restrict__ x, int width, int lane) {
  Dots dots{0, 0, 0};
  for (int d = lane * V; d < width; d += warp_width * V) {
    const Pack<T, V> a = load_pack<V>(y + d);
    const Pack<T, V> b = load_pack<V>(x + d);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      dots.yx += to_f32(a.v[j]) * to_f32(b.v[j]);
      dots.yy += to_f32(a.v[j]) * to_f32(a.v[j]);
      dots.xx += to_f32(b.v[j]) * to_f32(b.v[j]);
    }
  }
  return {warp_sum(dots.yx), warp_sum(dots.yy), warp_sum(dots.xx)};
}

template <class T, int V>
__global__ void forward_kernel(RecDistance distance, const T* __restrict__ y, std::int64_t y_stride,
                               const T* __restrict__ x, std::int64_t x_stride, const std::uint8_t* __restrict__ mask,
                               double* __restrict__ loss, std::int64_t num_rows, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * rows_a_block + threadIdx.x / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  if (row >= num_rows) return;
  if (mask != nullptr && mask[row] == 0) {
    if (lane == 0) loss[row] = 0;
    return;
  }
  y += row * y_stride;
  x += row * x_stride;
  double result = 0;
  if (distance == RecDistance::cosine) {
    const Dots dots = dots_of<T, V>(y, x, width, lane);
    const double product = sqrt(static_cast<double>(dots.yy)) * sqrt(static_cast<double>(dots.xx));
    result = 1.0 - static_cast<double>(dots.yx) / fmax(product, static_cast<double>(smallest_product));
    if (isnan(product)) result = product;  // fmax would hide it
  } else {
    float sum = 0;
    for (int d = lane * V; d < width; d += warp_width * V) {
      const Pack<T, V> a = load_pack<V>(y + d);
      const Pack<T, V> b = load_pack<V>(x + d);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float difference = to_f32(a.v[j]) - to_f32(b.v[j]);
        const float size = fabsf(difference);
        sum += distance == RecDistance::mse || size < 1.0F
                   ? difference * difference * (distance == RecDistance::mse ? 1.0F : 0.5F)
                   : size - 0.5F;
      }
    }
    result = static_cast<double>(warp_sum(sum)) / width;
  }
  if (lane == 0) loss[row] = result;
}

// dx may be null.
template <class T, int V>
__global__ void backward_kernel(RecDistance distance, const T* __restrict__ y, std::int64_t y_stride,
                                const T* __restrict__ x, std::int64_t x_stride, const std::uint8_t* __restrict__ mask,
                                float scale, T* __restrict__ dy, std::int64_t dy_stride, T* __restrict__ dx,
                                std::int64_t dx_stride, std::int64_t num_rows, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * rows_a_block + threadIdx.x / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  if (row >= num_rows || (mask != nullptr && mask[row] == 0)) return;
  y += row * y_stride;
  x += row * x_stride;
  dy += row * dy_stride;
  if (dx != nullptr) dx += row * dx_stride;
  // Cosine: d/dy = (y (y.x) / |y|^2 - x) / (|y| |x|).
  float cross = 0;
  float own_y = 0;
  float own_x = 0;
  if (distance == RecDistance::cosine) {
    const Dots dots = dots_of<T, V>(y, x, width, lane);
    const float product = sqrtf(dots.yy) * sqrtf(dots.xx);
    if (product < smallest_product) return;  // a vector of no direction; NaN goes on
    cross = -scale / product;
    own_y = -cross * dots.yx / dots.yy;
    own_x = -cross * dots.yx / dots.xx;
  }
  for (int d = lane * V; d < width; d += warp_width * V) {
    const Pack<T, V> a = load_pack<V>(y + d);
    const Pack<T, V> b = load_pack<V>(x + d);
    Pack<T, V> grad_y = load_pack<V>(dy + d);
    Pack<T, V> grad_x;
    if (dx != nullptr) grad_x = load_pack<V>(dx + d);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float from_y = to_f32(a.v[j]);
      const float from_x = to_f32(b.v[j]);
      float more_y;
      float more_x;
      if (distance == RecDistance::cosine) {
        more_y = cross * from_x + own_y * from_y;
        more_x = cross * from_y + own_x * from_x;
      } else {
        const float difference = from_y - from_x;
        const float slope = distance == RecDistance::mse ? 2.0F * difference
                            : fabsf(difference) < 1.0F   ? difference
                                                         : copysignf(1.0F, difference);
        more_y = scale * slope / static_cast<float>(width);
        more_x = -more_y;
      }
      grad_y.v[j] = from_f32<T>(to_f32(grad_y.v[j]) + more_y);
      if (dx != nullptr) grad_x.v[j] = from_f32<T>(to_f32(grad_x.v[j]) + more_x);
    }
    store_pack(dy + d, grad_y);
    if (dx != nullptr) store_pack(dx + d, grad_x);
  }
}

unsigned blocks_for(std::int64_t num_rows) {
  return grid_of(ceil_div(num_rows, rows_a_block), std::numeric_limits<int>::max());
}

// The losses of the rows [U] f64.
TensorView row_losses(const Context& ctx, Workspace& workspace, RecDistance distance, const ConstTensorView& y,
                      const ConstTensorView& x, const ConstTensorView& mask) {
  const std::int64_t num_rows = y.size(0);
  const TensorView loss = workspace.take(DType::f64, {num_rows});
  with_float_type(y.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(y, x), [&]<int V>(std::integral_constant<int, V>) {
      forward_kernel<T, V><<<blocks_for(num_rows), threads, 0, stream_of(ctx)>>>(
          distance, device_data<T>(y), y.stride(0), device_data<T>(x), x.stride(0), optional_data<std::uint8_t>(mask),
          device_data<double>(loss), num_rows, static_cast<int>(y.size(1)));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
  return loss;
}

}  // namespace

double rec_loss_forward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                        const ConstTensorView& mask) {
  if (y.size(0) == 0) return 0;
  Workspace workspace(ctx);
  return sum_on_host(ctx, row_losses(ctx, workspace, distance, y, x, mask));
}

void add_rec_loss_forward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                          const ConstTensorView& mask, const TensorView& total) {
  if (y.size(0) == 0) return;
  Workspace workspace(ctx);
  add_sum(ctx, row_losses(ctx, workspace, distance, y, x, mask), total);
}

void rec_loss_backward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                       const ConstTensorView& mask, double scale, const TensorView& dy, const TensorView& dx) {
  const std::int64_t num_rows = y.size(0);
  if (num_rows == 0) return;
  with_float_type(y.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(y, x, ConstTensorView(dy), ConstTensorView(dx)), [&]<int V>(std::integral_constant<int, V>) {
      backward_kernel<T, V><<<blocks_for(num_rows), threads, 0, stream_of(ctx)>>>(
          distance, device_data<T>(y), y.stride(0), device_data<T>(x), x.stride(0), optional_data<std::uint8_t>(mask),
          static_cast<float>(scale), device_data<T>(dy), dy.stride(0), optional_data<T>(dx), dx ? dx.stride(0) : 0,
          num_rows, static_cast<int>(y.size(1)));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
