// The CUDA body of rope.hpp: a thread a pack of pairs.
#include "kernels/cuda/common.cuh"
#include "kernels/rope.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

// Where rows of heads lie: `count` of them side by side, and so on; without positions a row stands at its place among
// those.
struct Rows {
  const std::int32_t* positions;
  unsigned count;
  std::int64_t outer_stride;
  std::int64_t row_stride;
  std::int64_t head_stride;
};

template <class T, int V>
__global__ void __launch_bounds__(threads)
    rope_kernel(const float* __restrict__ cosines, const float* __restrict__ sines, const Rows rows, T* __restrict__ x,
                unsigned num_packs, unsigned num_heads, unsigned half, float sign) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  if (i >= num_packs) return;
  const PackPlace in_head = pack_place(i, half / V);
  const PackPlace in_row = pack_place(in_head.row, num_heads);
  const PackPlace row = pack_place(in_row.row, rows.count);
  const unsigned d = in_head.pack * V;
  T* const head = x + row.row * rows.outer_stride + row.pack * rows.row_stride + in_row.pack * rows.head_stride + d;
  Pack<T, V> low = load_pack<V>(head);
  Pack<T, V> high = load_pack<V>(head + half);
  const std::int64_t position = rows.positions != nullptr ? rows.positions[in_row.row] : row.pack;
  const std::int64_t angle = position * half + d;
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

// x [..., H, hd].
void turn(const Context& ctx, const RopeTable& table, const Rows& rows, const TensorView& x, Rotation rotation) {
  if (x.numel() == 0) return;
  const int last = x.rank() - 1;
  const std::int64_t half = x.size(last) / 2;
  with_float_type(x.dtype(), [&]<class T>(T) {
    with_pack<T>(packs(x) && packs(x.slice(last, half, half)), [&]<int V>(std::integral_constant<int, V>) {
      const unsigned num_packs = num_packs_of(x.numel(), 2 * V);
      rope_kernel<T, V><<<static_cast<unsigned>(ceil_div(num_packs, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<float>(table.cosines()), device_data<float>(table.sines()), rows, device_data<T>(x), num_packs,
          static_cast<unsigned>(x.size(last - 1)), static_cast<unsigned>(half),
          rotation == Rotation::forward ? 1.0F : -1.0F);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void rope(const Context& ctx, const RopeTable& table, const ConstTensorView& positions, const TensorView& x,
          Rotation rotation) {
  const Rows rows{device_data<std::int32_t>(positions), static_cast<unsigned>(x.size(0)), 0, x.stride(0), x.stride(1)};
  turn(ctx, table, rows, x, rotation);
}

void rope(const Context& ctx, const RopeTable& table, const TensorView& x, Rotation rotation) {
  const Rows rows{nullptr, static_cast<unsigned>(x.size(1)), x.stride(0), x.stride(1), x.stride(2)};
  turn(ctx, table, rows, x, rotation);
}

}  // namespace photon::cuda
