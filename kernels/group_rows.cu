// The CUDA bodies of group_rows.hpp: a thread a pack of one output row.
#include "kernels/cuda/common.cuh"
#include "kernels/group_rows.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

// Counts fit 32 bits: num_packs_of() has seen to it.
struct Layout {
  unsigned num_packs;  // of the tensor whose packs the threads share out
  unsigned groups;     // M, of one sequence
  unsigned chunk;      // C
  unsigned prefix;     // R
  unsigned lookback;   // k
  unsigned positions;  // S
  unsigned packs_a_row;
};

__device__ inline std::int64_t pack_index(std::int64_t row, const Layout& l, unsigned pack) {
  return row * l.packs_a_row + pack;
}

template <class T, int V>
__global__ void __launch_bounds__(threads)
    rows_forward_kernel(const T* __restrict__ u, const T* __restrict__ content, T* __restrict__ out, Layout l) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  if (i >= l.num_packs) return;
  const PackPlace at = pack_place(i, l.packs_a_row);
  const unsigned g = at.row / l.positions;
  const unsigned s = at.row - g * l.positions;
  Pack<T, V> p;
  if (s < l.prefix) {
    p = load_pack<V>(u + pack_index(g * l.prefix + s, l, at.pack) * V);
  } else {
    const unsigned b = g / l.groups;
    const unsigned after = (g - b * l.groups) * l.chunk + s - l.prefix;  // the unit, and lookback more
    if (after >= l.lookback) {
      p = load_pack<V>(content + pack_index(b * l.groups * l.chunk + after - l.lookback, l, at.pack) * V);
    } else {
      for (int j = 0; j < V; ++j) p.v[j] = from_f32<T>(0.0F);
    }
  }
  store_pack(out + std::int64_t{i} * V, p);
}

template <class T, int V>
__global__ void __launch_bounds__(threads)
    prefix_backward_kernel(const T* __restrict__ dout, T* __restrict__ du, Layout l) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  if (i >= l.num_packs) return;
  const PackPlace at = pack_place(i, l.packs_a_row);
  const unsigned g = at.row / l.prefix;
  const unsigned from = g * l.positions + at.row - g * l.prefix;
  store_pack(du + std::int64_t{i} * V, load_pack<V>(dout + pack_index(from, l, at.pack) * V));
}

// A unit of content stands in its own group (but for the last of the group) and in the lookback of later ones; their
// gradients are added in the order of the groups.
template <class T, int V>
__global__ void __launch_bounds__(threads)
    content_backward_kernel(const T* __restrict__ dout, T* __restrict__ dcontent, Layout l) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  if (i >= l.num_packs) return;
  const PackPlace at = pack_place(i, l.packs_a_row);
  const unsigned units = l.groups * l.chunk;
  const unsigned b = at.row / units;
  const unsigned unit = at.row - b * units;
  unsigned m = unit / l.chunk;
  if (l.prefix + unit - m * l.chunk + l.lookback >= l.positions) ++m;  // the last unit of its own group
  if (m >= l.groups || m * l.chunk > unit + l.lookback) return;        // nothing is added
  const std::int64_t target = std::int64_t{i} * V;
  Pack<T, V> result = load_pack<V>(dcontent + target);
  float sum[V];
#pragma unroll
  for (int j = 0; j < V; ++j) sum[j] = to_f32(result.v[j]);
  for (; m < l.groups && m * l.chunk <= unit + l.lookback; ++m) {
    const unsigned s = l.prefix + unit + l.lookback - m * l.chunk;
    const Pack<T, V> p = load_pack<V>(dout + pack_index((b * l.groups + m) * l.positions + s, l, at.pack) * V);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += to_f32(p.v[j]);
  }
#pragma unroll
  for (int j = 0; j < V; ++j) result.v[j] = from_f32<T>(sum[j]);
  store_pack(dcontent + target, result);
}

template <class T, int V>
__global__ void __launch_bounds__(threads)
    shift_forward_kernel(const T* __restrict__ x, const T* __restrict__ start, T* __restrict__ c, unsigned num_packs,
                         unsigned groups, unsigned packs_a_row) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  if (i >= num_packs) return;
  const PackPlace at = pack_place(i, packs_a_row);
  const std::int64_t own = std::int64_t{i} * V;
  const T* const from = at.row % groups == 0 ? start + at.pack * V : x + own - std::int64_t{packs_a_row} * V;
  store_pack(c + own, load_pack<V>(from));
}

template <class T, int V>
__global__ void __launch_bounds__(threads)
    shift_backward_kernel(const T* __restrict__ dc, T* __restrict__ dx, unsigned num_packs, unsigned groups,
                          unsigned packs_a_row) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  if (i >= num_packs || pack_place(i, packs_a_row).row % groups == groups - 1) return;
  const std::int64_t own = std::int64_t{i} * V;
  const Pack<T, V> p = load_pack<V>(dc + own + std::int64_t{packs_a_row} * V);
  Pack<T, V> result = load_pack<V>(dx + own);
#pragma unroll
  for (int j = 0; j < V; ++j) result.v[j] = from_f32<T>(to_f32(result.v[j]) + to_f32(p.v[j]));
  store_pack(dx + own, result);
}

template <class T, class W>
__global__ void start_backward_kernel(const T* __restrict__ dc, W* __restrict__ dstart, std::int64_t batch,
                                      std::int64_t stride, std::int64_t width) {
  const std::int64_t d = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (d >= width) return;
  float sum = to_f32(dstart[d]);
  for (std::int64_t b = 0; b < batch; ++b) sum += to_f32(dc[b * stride + d]);
  dstart[d] = from_f32<W>(sum);
}

// rows [G, S, D]; the threads share out the packs of `shared`.
Layout layout_of(const ConstTensorView& rows, std::int64_t prefix, std::int64_t lookback, std::int64_t groups,
                 const ConstTensorView& shared, int pack) {
  return {.num_packs = num_packs_of(shared.numel(), pack),
          .groups = static_cast<unsigned>(groups),
          .chunk = static_cast<unsigned>(rows.size(1) - prefix - lookback + 1),
          .prefix = static_cast<unsigned>(prefix),
          .lookback = static_cast<unsigned>(lookback),
          .positions = static_cast<unsigned>(rows.size(1)),
          .packs_a_row = static_cast<unsigned>(rows.size(2) / pack)};
}

unsigned blocks_for(unsigned num_packs) {
  return grid_of(ceil_div(num_packs, threads), std::numeric_limits<int>::max());
}

}  // namespace

void decoder_rows_forward(const Context& ctx, const ConstTensorView& u, const ConstTensorView& content,
                          std::int64_t lookback, const TensorView& out) {
  if (out.numel() == 0) return;
  with_float_type(out.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(u, content, out), [&]<int V>(std::integral_constant<int, V>) {
      const Layout layout = layout_of(out, u.size(1), lookback, out.size(0) / content.size(0), out, V);
      rows_forward_kernel<T, V><<<blocks_for(layout.num_packs), threads, 0, stream_of(ctx)>>>(
          device_data<T>(u), device_data<T>(content), device_data<T>(out), layout);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void decoder_rows_backward(const Context& ctx, const ConstTensorView& dout, std::int64_t lookback, const TensorView& du,
                           const TensorView& dcontent) {
  if (dout.numel() == 0) return;
  with_float_type(dout.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(dout, du, dcontent), [&]<int V>(std::integral_constant<int, V>) {
      const std::int64_t groups = dcontent ? dout.size(0) / dcontent.size(0) : 1;
      const Layout prefix = layout_of(dout, du.size(1), lookback, groups, du, V);
      prefix_backward_kernel<T, V><<<blocks_for(prefix.num_packs), threads, 0, stream_of(ctx)>>>(
          device_data<T>(dout), device_data<T>(du), prefix);
      PHOTON_CUDA_CHECK(cudaGetLastError());
      if (!dcontent) return;
      const Layout content = layout_of(dout, du.size(1), lookback, groups, dcontent, V);
      content_backward_kernel<T, V><<<blocks_for(content.num_packs), threads, 0, stream_of(ctx)>>>(
          device_data<T>(dout), device_data<T>(dcontent), content);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void shift_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& start, const TensorView& c) {
  if (c.numel() == 0) return;
  with_float_type(c.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(x, start, c), [&]<int V>(std::integral_constant<int, V>) {
      const unsigned num_packs = num_packs_of(c.numel(), V);
      shift_forward_kernel<T, V><<<blocks_for(num_packs), threads, 0, stream_of(ctx)>>>(
          device_data<T>(x), device_data<T>(start), device_data<T>(c), num_packs, static_cast<unsigned>(c.size(1)),
          static_cast<unsigned>(c.size(2) / V));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void shift_backward(const Context& ctx, const ConstTensorView& dc, const TensorView& dx, const TensorView& dstart) {
  if (dc.numel() == 0) return;
  const std::int64_t width = dc.size(2);
  with_float_type(dc.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(dc, dx), [&]<int V>(std::integral_constant<int, V>) {
      const unsigned num_packs = num_packs_of(dx.numel(), V);
      shift_backward_kernel<T, V><<<blocks_for(num_packs), threads, 0, stream_of(ctx)>>>(
          device_data<T>(dc), device_data<T>(dx), num_packs, static_cast<unsigned>(dc.size(1)),
          static_cast<unsigned>(width / V));
    });
    PHOTON_CUDA_CHECK(cudaGetLastError());
    with_float_type(dstart.dtype(), [&]<class W>(W) {
      start_backward_kernel<<<grid_of(ceil_div(width, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<T>(dc), device_data<W>(dstart), dc.size(0), dc.size(1) * width, width);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
