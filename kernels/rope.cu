// The CUDA body of rope.hpp: a thread a pack of pairs.
#include "kernels/cuda/common.cuh"
#include "kernels/rope.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

template <class T, int V>
__global__ void __launch_bounds__(threads)
    rope_kernel(const float* __restrict__ cosines, const float* __restrict__ sines,
                const std::int32_t* __restrict__ positions, T* __restrict__ x, std::int64_t row_stride,
                std::int64_t head_stride, unsigned num_packs, unsigned num_heads, unsigned half, float sign) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  if (i >= num_packs) return;
  const PackPlace in_head = pack_place(i, half / V);
  const PackPlace in_row = pack_place(in_head.row, num_heads);
  const unsigned d = in_head.pack * V;
  T* const head = x + in_row.row * row_stride + in_row.pack * head_stride + d;
  Pack<T, V> low = load_pack<V>(head);
  Pack<T, V> high = load_pack<V>(head + half);
  const std::int64_t angle = std::int64_t{positions[in_row.row]} * half + d;
  const Pack<float, V> c = load_pack<V>(cosines + angle);
  const Pack<float, V> s = load_pack<V>(sines + angle);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const float a = to_f32(low.v[j]);
    const float b = to_f32(high.v[j]);
    low.v[j] = from_f32<T>(rotated_low(a, b, c.v[j], sign * s.v[j]));
    high.v[j] = from_f32<T>(rotated_high(a, b, c.v[j], sign * s.v[j]));
  }
  store_pack(head, low);
  store_pack(head + half, high);
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
      const unsigned num_packs = num_packs_of(x.numel(), 2 * V);
      rope_kernel<T, V><<<static_cast<unsigned>(ceil_div(num_packs, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<float>(table.cosines()), device_data<float>(table.sines()), device_data<std::int32_t>(positions),
          device_data<T>(x), x.stride(0), x.stride(1), num_packs, static_cast<unsigned>(x.size(1)),
          static_cast<unsigned>(half), rotation == Rotation::forward ? 1.0F : -1.0F);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
