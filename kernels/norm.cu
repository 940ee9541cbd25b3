// The CUDA bodies of norm.hpp. Rows of 16-byte packs stay in registers between being read and written; others are read
// twice. Forward: a warp a row, or a block where rows are wide. Backward: a block a row, and one after another; each
// block has its own partial sum of dw.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/largest.cuh"
#include "kernels/cuda/scratch.hpp"
#include "kernels/cuda/sum.hpp"
#include "kernels/norm.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;
constexpr int rows_a_block = threads / warp_width;

// A row that is held in registers: `num_warps` warps share it, each lane holds up to N packs of it.
template <class T, int N, int num_warps>
struct Held {
  static constexpr int V = full_pack<T>;
  static constexpr int lanes = num_warps * warp_width;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % lanes; }
  // The element at which the lane's pack i starts, and whether there is one.
  __device__ static int at(int i) { return (i * lanes + lane()) * V; }

  HeldPack<T> x[N];

  __device__ void load(const T* __restrict__ row, int width) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (at(i) < width) x[i] = load_held(row + at(i));
    }
  }
};

// The weights of pair j of the pack at w.
__device__ inline float2 weight_pair(const float* __restrict__ w, int j) {
  return __ldg(reinterpret_cast<const float2*>(w) + j);
}

template <int num_warps>
__device__ inline float sum_of_row(float x) {
  if constexpr (num_warps == 1) {
    return warp_sum(x);
  } else {
    return block_sum(x);
  }
}

template <class T, int N, int num_warps>
__global__ void __launch_bounds__(threads, 2)
    held_forward_kernel(const T* x, std::int64_t x_stride, const float* __restrict__ w, float eps, T* __restrict__ y,
                        std::int64_t y_stride, float* __restrict__ rstd, unsigned* largest, std::int64_t num_rows,
                        int width) {
  using Row = Held<T, N, num_warps>;
  constexpr int num_pairs = HeldPack<T>::num_pairs;
  const std::int64_t row = std::int64_t{blockIdx.x} * (threads / Row::lanes) + threadIdx.x / Row::lanes;
  if (row >= num_rows) return;  // all threads that share the row
  Row held;
  held.load(x + row * x_stride, width);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (Row::at(i) >= width) continue;
#pragma unroll
    for (int j = 0; j < num_pairs; ++j) {
      const float2 a = held.x[i].pair(j);
      squares += a.x * a.x + a.y * a.y;
    }
  }
  const float scale = rsqrtf(sum_of_row<num_warps>(squares) / static_cast<float>(width) + eps);
  if (rstd != nullptr && Row::lane() == 0) rstd[row] = scale;
  unsigned most = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (Row::at(i) >= width) continue;
#pragma unroll
    for (int j = 0; j < num_pairs; ++j) {
      const float2 a = held.x[i].pair(j);
      const float2 weight = weight_pair(w + Row::at(i), j);
      held.x[i].set_pair(j, {a.x * scale * weight.x, a.y * scale * weight.y});
    }
    store_held(y + row * y_stride + Row::at(i), held.x[i]);
    most = larger(most, held.x[i]);
  }
  if (largest != nullptr) raise_by_warp(largest, most);
}

// Block b takes rows b, b + gridDim.x, ...; a thread keeps N packs of each row, the weights of its columns, and their
// sums of dy * x * rstd, the block's row of partial sums. The next row is under way while one is computed.
template <class T, int N>
__global__ void held_backward_kernel(const T* dy, std::int64_t dy_stride, const T* __restrict__ x,
                                     std::int64_t x_stride, const float* __restrict__ w, const float* __restrict__ rstd,
                                     const T* before, std::int64_t before_stride, T* dx, std::int64_t dx_stride,
                                     T* __restrict__ y, std::int64_t y_stride, float* __restrict__ partial,
                                     unsigned* largest, std::int64_t num_rows, int width) {
  constexpr int V = full_pack<T>;
  constexpr int num_pairs = HeldPack<T>::num_pairs;
  __shared__ float dots[2][warp_width];  // of the warps, for rows of even and odd turns
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int num_warps = static_cast<int>(blockDim.x) / warp_width;
  const auto at = [](int i) { return (i * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * V; };
  struct Row {
    HeldPack<T> grad;
    HeldPack<T> x;
    HeldPack<T> before;
  };
  float2 weight[N][num_pairs] = {};
  float2 dw[N][num_pairs] = {};
  Row next[N];
  float next_scale = 0;
  const auto load = [&](std::int64_t row) {
    if (row >= num_rows) return;
    next_scale = rstd[row];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (at(i) >= width) continue;
      next[i].grad = load_held(dy + row * dy_stride + at(i));
      next[i].x = load_held(x + row * x_stride + at(i));
      if (before != nullptr) next[i].before = load_held(before + row * before_stride + at(i));
    }
  };
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (at(i) >= width) continue;
#pragma unroll
    for (int j = 0; j < num_pairs; ++j) weight[i][j] = weight_pair(w + at(i), j);
  }
  load(blockIdx.x);
  unsigned most = 0;
  int turn = 0;
  for (std::int64_t row = blockIdx.x; row < num_rows; row += gridDim.x, turn ^= 1) {
    Row here[N];
#pragma unroll
    for (int i = 0; i < N; ++i) here[i] = next[i];
    const float scale = next_scale;
    load(row + gridDim.x);
    float dot = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (at(i) >= width) continue;
#pragma unroll
      for (int j = 0; j < num_pairs; ++j) {
        const float2 grad = here[i].grad.pair(j);
        const float2 value = here[i].x.pair(j);
        const float2 product = {grad.x * value.x, grad.y * value.y};
        dot += product.x * weight[i][j].x + product.y * weight[i][j].y;
        dw[i][j].x += product.x * scale;
        dw[i][j].y += product.y * scale;
      }
    }
    dot = warp_sum(dot);
    if (lane == 0) dots[turn][warp] = dot;
    __syncthreads();  // the turn before the last one has been read by all
    dot = warp_sum(lane < num_warps ? dots[turn][lane] : 0.0F);
    const float pull = dot * scale * scale / static_cast<float>(width);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (at(i) >= width) continue;
#pragma unroll
      for (int j = 0; j < num_pairs; ++j) {
        const float2 grad = here[i].grad.pair(j);
        const float2 value = here[i].x.pair(j);
        float2 result = {scale * (grad.x * weight[i][j].x - pull * value.x),
                         scale * (grad.y * weight[i][j].y - pull * value.y)};
        if (before != nullptr) {
          const float2 there = here[i].before.pair(j);
          result = {there.x + result.x, there.y + result.y};
        }
        here[i].x.set_pair(j, result);
        // The gradient has been read: the forward's result takes its place.
        here[i].grad.set_pair(j, {value.x * scale * weight[i][j].x, value.y * scale * weight[i][j].y});
      }
      store_held(dx + row * dx_stride + at(i), here[i].x);
      if (y != nullptr) store_held(y + row * y_stride + at(i), here[i].grad);
      most = larger(most, here[i].x);
    }
  }
  if (largest != nullptr) raise_by_block(largest, most);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (at(i) >= width) continue;
#pragma unroll
    for (int j = 0; j < num_pairs; ++j)
      reinterpret_cast<float2*>(partial + std::int64_t{blockIdx.x} * width + at(i))[j] = dw[i][j];
  }
}

// Calls body<N>(threads of a block) when a row of `width` elements of T fits a block's registers; returns whether it
// does.
template <class T, class Body>
bool with_block_rows(std::int64_t width, Body&& body) {
  constexpr std::int64_t most_threads = 512;
  const std::int64_t packs_a_row = width / full_pack<T>;
  const auto threads_for = [&](std::int64_t packs_a_thread) {
    return static_cast<unsigned>(ceil_div(ceil_div(packs_a_row, packs_a_thread), warp_width) * warp_width);
  };
  if (packs_a_row <= most_threads) {
    body.template operator()<1>(threads_for(1));
  } else if (packs_a_row <= 2 * most_threads) {
    body.template operator()<2>(threads_for(2));
  } else {
    return false;
  }
  return true;
}

// Calls body<N, num_warps> when a row of `width` elements of T fits a warp's or a block's registers; returns whether it
// does.
template <class T, class Body>
bool with_held_rows(std::int64_t width, Body&& body) {
  const std::int64_t packs_a_row = width / full_pack<T>;
  const auto with_packs = [&]<int num_warps>(std::integral_constant<int, num_warps>) {
    const std::int64_t packs_a_lane = ceil_div(packs_a_row, num_warps * warp_width);
    if (packs_a_lane <= 1) {
      body.template operator()<1, num_warps>();
    } else if (packs_a_lane <= 2) {
      body.template operator()<2, num_warps>();
    } else if (packs_a_lane <= 4) {
      body.template operator()<4, num_warps>();
    } else if (packs_a_lane <= 6) {
      body.template operator()<6, num_warps>();
    } else {
      return false;
    }
    return true;
  };
  return with_packs(std::integral_constant<int, 1>{}) || with_packs(std::integral_constant<int, rows_a_block>{});
}

template <class T, class W, int V>
__global__ void forward_kernel(const T* x, std::int64_t x_stride, const W* __restrict__ w, float eps, T* __restrict__ y,
                               std::int64_t y_stride, float* __restrict__ rstd, unsigned* largest,
                               std::int64_t num_rows, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * rows_a_block + threadIdx.x / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  if (row >= num_rows) return;
  x += row * x_stride;
  float squares = 0;
  for (int d = lane * V; d < width; d += warp_width * V) {
    const Pack<T, V> p = load_pack<V>(x + d);
    for (int i = 0; i < V; ++i) squares += to_f32(p.v[i]) * to_f32(p.v[i]);
  }
  const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
  if (rstd != nullptr && lane == 0) rstd[row] = scale;
  unsigned most = 0;
  for (int d = lane * V; d < width; d += warp_width * V) {
    const Pack<T, V> p = load_pack<V>(x + d);
    const Pack<W, V> weight = load_pack<V>(w + d);
    Pack<T, V> result;
    for (int i = 0; i < V; ++i) {
      result.v[i] = from_f32<T>(to_f32(p.v[i]) * scale * to_f32(weight.v[i]));
      most = larger(most, result.v[i]);
    }
    store_pack(y + row * y_stride + d, result);
  }
  if (largest != nullptr) raise_by_warp(largest, most);
}

// Block b takes rows b, b + gridDim.x, ...; partial[b, d] = its sum of dy * x * rstd, kept in shared memory by the
// thread that owns column d.
template <class T, class W, int V>
__global__ void backward_kernel(const T* dy, std::int64_t dy_stride, const T* __restrict__ x, std::int64_t x_stride,
                                const W* __restrict__ w, const float* __restrict__ rstd, const T* before,
                                std::int64_t before_stride, T* dx, std::int64_t dx_stride, T* __restrict__ y,
                                std::int64_t y_stride, float* __restrict__ partial, unsigned* largest,
                                std::int64_t num_rows, int width) {
  extern __shared__ float dw[];
  unsigned most = 0;
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
      Pack<T, V> again;
      if (before != nullptr) result = load_pack<V>(before + row * before_stride + d);
      for (int i = 0; i < V; ++i) {
        const float gradient = scale * (to_f32(g.v[i]) * to_f32(weight.v[i]) - pull * to_f32(p.v[i]));
        result.v[i] = from_f32<T>(before != nullptr ? to_f32(result.v[i]) + gradient : gradient);
        again.v[i] = from_f32<T>(to_f32(p.v[i]) * scale * to_f32(weight.v[i]));
        most = larger(most, result.v[i]);
      }
      store_pack(dx_row + d, result);
      if (y != nullptr) store_pack(y + row * y_stride + d, again);
    }
  }
  for (int d = static_cast<int>(threadIdx.x) * V; d < width; d += threads * V) {
    for (int i = 0; i < V; ++i) partial[std::int64_t{blockIdx.x} * width + d + i] = dw[d + i];
  }
  if (largest != nullptr) raise_by_block(largest, most);
}

}  // namespace

void rms_norm_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, double eps,
                      const TensorView& y, const TensorView& rstd, const TensorView& largest) {
  const std::int64_t num_rows = x.size(0);
  unsigned* const found = cleared_largest(ctx, largest);
  if (num_rows == 0) return;
  const bool full = all_pack(x, w, ConstTensorView(y));
  with_float_type(x.dtype(), [&]<class T>(T) {
    const auto held = [&]<int N, int num_warps>() {
      held_forward_kernel<T, N, num_warps>
          <<<grid_of(ceil_div(num_rows * num_warps, rows_a_block), std::numeric_limits<int>::max()), threads, 0,
             stream_of(ctx)>>>(device_data<T>(x), x.stride(0), device_data<float>(w), static_cast<float>(eps),
                               device_data<T>(y), y.stride(0), optional_data<float>(rstd), found, num_rows,
                               static_cast<int>(x.size(1)));
    };
    if (full && with_held_rows<T>(x.size(1), held)) return;
    with_pack<T>(full, [&]<int V>(std::integral_constant<int, V>) {
      forward_kernel<T, float, V>
          <<<grid_of(ceil_div(num_rows, rows_a_block), std::numeric_limits<int>::max()), threads, 0, stream_of(ctx)>>>(
              device_data<T>(x), x.stride(0), device_data<float>(w), static_cast<float>(eps), device_data<T>(y),
              y.stride(0), optional_data<float>(rstd), found, num_rows, static_cast<int>(x.size(1)));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void rms_norm_backward(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                       const ConstTensorView& w, const ConstTensorView& rstd, const ConstTensorView& before,
                       const TensorView& dx, const TensorView& dw, const TensorView& y, const TensorView& largest) {
  const std::int64_t num_rows = x.size(0);
  const std::int64_t width = x.size(1);
  unsigned* const found = cleared_largest(ctx, largest);
  if (num_rows == 0) return;
  const std::int64_t blocks = std::min(num_rows, norm_backward_blocks);
  Workspace workspace(ctx);
  const TensorView partial = workspace.take(DType::f32, {blocks, width});
  const std::int64_t shared = width * static_cast<std::int64_t>(sizeof(float));
  const bool full = all_pack(dy, x, w, before, ConstTensorView(dx), ConstTensorView(y));
  with_float_type(x.dtype(), [&]<class T>(T) {
    const auto held = [&]<int N>(unsigned block) {
      held_backward_kernel<T, N><<<grid_of(blocks), block, 0, stream_of(ctx)>>>(
          device_data<T>(dy), dy.stride(0), device_data<T>(x), x.stride(0), device_data<float>(w),
          device_data<float>(rstd), optional_data<T>(before), before ? before.stride(0) : 0, device_data<T>(dx),
          dx.stride(0), optional_data<T>(y), y ? y.stride(0) : 0, device_data<float>(partial), found, num_rows,
          static_cast<int>(width));
    };
    if (full && with_block_rows<T>(width, held)) return;
    with_pack<T>(full, [&]<int V>(std::integral_constant<int, V>) {
      allow_shared_memory(backward_kernel<T, float, V>, shared);
      backward_kernel<T, float, V><<<grid_of(blocks), threads, static_cast<std::size_t>(shared), stream_of(ctx)>>>(
          device_data<T>(dy), dy.stride(0), device_data<T>(x), x.stride(0), device_data<float>(w),
          device_data<float>(rstd), optional_data<T>(before), before ? before.stride(0) : 0, device_data<T>(dx),
          dx.stride(0), optional_data<T>(y), y ? y.stride(0) : 0, device_data<float>(partial), found, num_rows,
          static_cast<int>(width));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
  add_partial_rows(ctx, partial, dw);
}

}  // namespace photon::cuda
