// The CUDA bodies of group_rows.hpp: a thread a pack of one output row.
#include "kernels/cuda/common.cuh"
#include "kernels/group_rows.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

struct Layout {
  std::int64_t num_groups;  // G
  std::int64_t groups;      // M, of one sequence
  std::int64_t chunk;       // C
  std::int64_t prefix;      // R
  std::int64_t lookback;    // k
  std::int64_t positions;   // S
  std::int64_t packs_a_row;
};

template <class T, int V>
__global__ void rows_forward_kernel(const T* __restrict__ u, const T* __restrict__ content, T* __restrict__ out,
                                    Layout l) {
  const std::int64_t count = l.num_groups * l.positions * l.packs_a_row;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < count; i += step) {
    const std::int64_t row = i / l.packs_a_row;
    const std::int64_t pack = i - row * l.packs_a_row;
    const std::int64_t g = row / l.positions;
    const std::int64_t s = row - g * l.positions;
    Pack<T, V> p;
    if (s < l.prefix) {
      p = load_pack<V>(u + ((g * l.prefix + s) * l.packs_a_row + pack) * V);
    } else {
      const std::int64_t b = g / l.groups;
      const std::int64_t unit = (g - b * l.groups) * l.chunk - l.lookback + s - l.prefix;
      if (unit >= 0) {
        p = load_pack<V>(content + ((b * l.groups * l.chunk + unit) * l.packs_a_row + pack) * V);
      } else {
        for (int j = 0; j < V; ++j) p.v[j] = from_f32<T>(0.0F);
      }
    }
    store_pack(out + i * V, p);
  }
}

template <class T, int V>
__global__ void prefix_backward_kernel(const T* __restrict__ dout, T* __restrict__ du, Layout l) {
  const std::int64_t count = l.num_groups * l.prefix * l.packs_a_row;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < count; i += step) {
    const std::int64_t row = i / l.packs_a_row;
    const std::int64_t g = row / l.prefix;
    const std::int64_t from = (g * l.positions + row - g * l.prefix) * l.packs_a_row + i - row * l.packs_a_row;
    store_pack(du + i * V, load_pack<V>(dout + from * V));
  }
}

// A unit of content stands in its own group (but for the last of the group) and in the lookback of later ones; their
// gradients are added in the order of the groups.
template <class T, int V>
__global__ void content_backward_kernel(const T* __restrict__ dout, T* __restrict__ dcontent, Layout l) {
  const std::int64_t units = l.groups * l.chunk;
  const std::int64_t count = l.num_groups * l.chunk * l.packs_a_row;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < count; i += step) {
    const std::int64_t row = i / l.packs_a_row;
    const std::int64_t pack = i - row * l.packs_a_row;
    const std::int64_t b = row / units;
    const std::int64_t unit = row - b * units;
    const std::int64_t own = unit / l.chunk;
    Pack<T, V> result = load_pack<V>(dcontent + i * V);
    float sum[V];
    for (int j = 0; j < V; ++j) sum[j] = to_f32(result.v[j]);
    for (std::int64_t m = own; m < l.groups && m * l.chunk - l.lookback <= unit; ++m) {
      const std::int64_t s = l.prefix + unit - (m * l.chunk - l.lookback);
      if (s >= l.positions) continue;  // the last unit of its own group
      const Pack<T, V> p = load_pack<V>(dout + (((b * l.groups + m) * l.positions + s) * l.packs_a_row + pack) * V);
      for (int j = 0; j < V; ++j) sum[j] += to_f32(p.v[j]);
    }
    for (int j = 0; j < V; ++j) result.v[j] = from_f32<T>(sum[j]);
    store_pack(dcontent + i * V, result);
  }
}

template <class T, int V>
__global__ void shift_forward_kernel(const T* __restrict__ x, const T* __restrict__ start, T* __restrict__ c,
                                     std::int64_t num_rows, std::int64_t groups, std::int64_t packs_a_row) {
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_rows * packs_a_row; i += step) {
    const std::int64_t row = i / packs_a_row;
    const T* const from = row % groups == 0 ? start + (i - row * packs_a_row) * V : x + (i - packs_a_row) * V;
    store_pack(c + i * V, load_pack<V>(from));
  }
}

template <class T, int V>
__global__ void shift_backward_kernel(const T* __restrict__ dc, T* __restrict__ dx, std::int64_t num_rows,
                                      std::int64_t groups, std::int64_t packs_a_row) {
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_rows * packs_a_row; i += step) {
    const std::int64_t row = i / packs_a_row;
    if (row % groups == groups - 1) continue;
    const Pack<T, V> p = load_pack<V>(dc + (i + packs_a_row) * V);
    Pack<T, V> result = load_pack<V>(dx + i * V);
    for (int j = 0; j < V; ++j) result.v[j] = from_f32<T>(to_f32(result.v[j]) + to_f32(p.v[j]));
    store_pack(dx + i * V, result);
  }
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

Layout layout_of(const ConstTensorView& rows, std::int64_t prefix, std::int64_t lookback, std::int64_t groups) {
  return {.num_groups = rows.size(0),
          .groups = groups,
          .chunk = rows.size(1) - prefix - lookback + 1,
          .prefix = prefix,
          .lookback = lookback,
          .positions = rows.size(1),
          .packs_a_row = rows.size(2)};
}

}  // namespace

void decoder_rows_forward(const Context& ctx, const ConstTensorView& u, const ConstTensorView& content,
                          std::int64_t lookback, const TensorView& out) {
  if (out.numel() == 0) return;
  with_float_type(out.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(u, content, out), [&]<int V>(std::integral_constant<int, V>) {
      Layout layout = layout_of(out, u.size(1), lookback, out.size(0) / content.size(0));
      layout.packs_a_row /= V;
      rows_forward_kernel<T, V><<<grid_of(ceil_div(out.numel() / V, threads)), threads, 0, stream_of(ctx)>>>(
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
      Layout layout = layout_of(dout, du.size(1), lookback, dcontent ? dout.size(0) / dcontent.size(0) : 1);
      layout.packs_a_row /= V;
      prefix_backward_kernel<T, V><<<grid_of(ceil_div(du.numel() / V, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<T>(dout), device_data<T>(du), layout);
      PHOTON_CUDA_CHECK(cudaGetLastError());
      if (dcontent) {
        content_backward_kernel<T, V><<<grid_of(ceil_div(dcontent.numel() / V, threads)), threads, 0, stream_of(ctx)>>>(
            device_data<T>(dout), device_data<T>(dcontent), layout);
      }
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void shift_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& start, const TensorView& c) {
  if (c.numel() == 0) return;
  with_float_type(c.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(x, start, c), [&]<int V>(std::integral_constant<int, V>) {
      shift_forward_kernel<T, V><<<grid_of(ceil_div(c.numel() / V, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<T>(x), device_data<T>(start), device_data<T>(c), c.size(0) * c.size(1), c.size(1), c.size(2) / V);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void shift_backward(const Context& ctx, const ConstTensorView& dc, const TensorView& dx, const TensorView& dstart) {
  if (dc.numel() == 0) return;
  const std::int64_t width = dc.size(2);
  with_float_type(dc.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(dc, dx), [&]<int V>(std::integral_constant<int, V>) {
      shift_backward_kernel<T, V><<<grid_of(ceil_div(dx.numel() / V, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<T>(dc), device_data<T>(dx), dc.size(0) * dc.size(1), dc.size(1), width / V);
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
