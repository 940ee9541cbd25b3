// The CUDA body of rope.hpp: a thread a pack of pairs.
#include "kernels/cuda/common.cuh"
#include "kernels/rope.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

template <class T, int V>
__global__ void rope_kernel(const float* __restrict__ cosines, const float* __restrict__ sines,
                            const std::int32_t* __restrict__ positions, T* __restrict__ x, std::int64_t row_stride,
                            std::int64_t head_stride, std::int64_t num_rows, std::int64_t num_heads, std::int64_t half,
                            float sign) {
  const std::int64_t packs_a_head = half / V;
  const std::int64_t count = num_rows * num_heads * packs_a_head;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < count; i += step) {
    const std::int64_t head_index = i / packs_a_head;
    const std::int64_t d = (i - head_index * packs_a_head) * V;
    const std::int64_t row = head_index / num_heads;
    T* const head = x + row * row_stride + (head_index - row * num_heads) * head_stride + d;
    const std::int64_t angle = positions[row] * half + d;
    Pack<T, V> low = load_pack<V>(head);
    Pack<T, V> high = load_pack<V>(head + half);
    for (int j = 0; j < V; ++j) {
      const float c = cosines[angle + j];
      const float s = sign * sines[angle + j];
      const float a = to_f32(low.v[j]);
      const float b = to_f32(high.v[j]);
      low.v[j] = from_f32<T>(rotated_low(a, b, c, s));
      high.v[j] = from_f32<T>(rotated_high(a, b, c, s));
    }
    store_pack(head, low);
    store_pack(head + half, high);
  }
}

__global__ void positions_kernel(const std::int32_t* __restrict__ first, std::int32_t begin,
                                 std::int32_t* __restrict__ positions, std::int64_t n, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= n) return;
  const std::int64_t s = i / count;
  positions[i] = (first != nullptr ? first[s] : 0) + begin + static_cast<std::int32_t>(i - s * count);
}

}  // namespace

void row_positions(const Context& ctx, const ConstTensorView& first, std::int64_t sequences, std::int64_t begin,
                   const TensorView& positions) {
  const std::int64_t n = positions.numel();
  if (n == 0) return;
  positions_kernel<<<grid_of(ceil_div(n, threads), std::numeric_limits<int>::max()), threads, 0, stream_of(ctx)>>>(
      optional_data<std::int32_t>(first), static_cast<std::int32_t>(begin), device_data<std::int32_t>(positions), n,
      n / sequences);
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void rope(const Context& ctx, const RopeTable& table, const ConstTensorView& positions, const TensorView& x,
          Rotation rotation) {
  if (x.numel() == 0) return;
  const std::int64_t half = x.size(2) / 2;
  with_float_type(x.dtype(), [&]<class T>(T) {
    with_pack<T>(packs(x) && packs(x.slice(2, half, half)), [&]<int V>(std::integral_constant<int, V>) {
      rope_kernel<T, V><<<grid_of(ceil_div(x.numel() / (2 * V), threads)), threads, 0, stream_of(ctx)>>>(
          device_data<float>(table.cosines()), device_data<float>(table.sines()), device_data<std::int32_t>(positions),
          device_data<T>(x), x.stride(0), x.stride(1), x.size(0), x.size(1), half,
          rotation == Rotation::forward ? 1.0F : -1.0F);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
