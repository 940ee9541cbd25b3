// The CUDA bodies of attention.hpp. bf16 heads of width 64 and 128 go to the tensor cores (cuda/flash.hpp). Here, for
// f32 and all other widths: tiles in shared memory, float32 arithmetic. Forward: a block a (64 queries, head), online
// softmax. Backward: one kernel for dq, a block a (64 queries, head); one for dk and dv, a block a (64 keys, key head)
// that walks all queries that see them. Every sum has one order, so the results repeat bit for bit.
#include <cmath>

#include "kernels/attention.hpp"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/flash.hpp"

namespace photon::cuda {
namespace {

template <class T>
tile::Heads<const T> heads_of(const ConstTensorView& x) {
  return {device_data<T>(x), x.stride(0), x.stride(1), x.stride(2)};
}
template <class T>
tile::Heads<T> heads_of(const TensorView& x) {
  return {device_data<T>(x), x.stride(0), x.stride(1), x.stride(2)};
}

// The first tile of keys that any query from `first` on sees.
__device__ std::int64_t first_keys(std::int64_t first, const tile::Sizes& s) {
  const std::int64_t lowest = s.window > 0 && first >= s.window ? first - s.window + 1 : 0;
  return lowest / tile::columns * tile::columns;
}

template <class T, int Width>
__global__ void __launch_bounds__(tile::threads)
    forward_kernel(tile::Heads<const T> q, tile::Heads<const T> k, tile::Heads<const T> v, tile::Heads<T> out,
                   float* __restrict__ lse, tile::Sizes s) {
  extern __shared__ float4 aligned[];
  float* const queries = reinterpret_cast<float*>(aligned);
  float* const keys = queries + tile::rows * tile::length<Width>;
  float* const values = keys + tile::columns * tile::length<Width>;
  float* const weights = values + tile::columns * tile::length<Width>;
  const std::int64_t first = std::int64_t{blockIdx.x} * tile::rows;
  const std::int64_t h = blockIdx.y;
  const std::int64_t b = blockIdx.z;
  const std::int64_t kh = h / s.heads_a_key;
  tile::load<Width, tile::rows>(queries, q.at(b, h), q.position, first, s);
  tile::Sum<Width> sum;
  sum.clear();
  float largest[tile::own_rows];
  float total[tile::own_rows];
  for (int r = 0; r < tile::own_rows; ++r) {
    largest[r] = -INFINITY;
    total[r] = 0;
  }
  const std::int64_t end = min(first + tile::rows, s.positions);
  for (std::int64_t key = first_keys(first, s); key < end; key += tile::columns) {
    __syncthreads();
    tile::load<Width, tile::columns>(keys, k.at(b, kh), k.position, key, s);
    tile::load<Width, tile::columns>(values, v.at(b, kh), v.position, key, s);
    __syncthreads();
    float p[tile::own_rows][tile::own_columns];
    tile::multiply_rows<Width>(queries, keys, p);
#pragma unroll
    for (int r = 0; r < tile::own_rows; ++r) {
      const std::int64_t query = first + tile::ty() * tile::own_rows + r;
      float here = -INFINITY;
#pragma unroll
      for (int c = 0; c < tile::own_columns; ++c) {
        p[r][c] = tile::sees(query, key + tile::tx() + c * tile::side, s) ? p[r][c] * s.scale : -INFINITY;
        here = fmaxf(here, p[r][c]);
      }
      const float now = fmaxf(largest[r], tile::row_max(here));
      const float shift = now == -INFINITY ? 0.0F : now;  // no key seen yet
      const float keep = expf(largest[r] - shift);
      float added = 0;
#pragma unroll
      for (int c = 0; c < tile::own_columns; ++c) {
        p[r][c] = expf(p[r][c] - shift);
        added += p[r][c];
      }
      total[r] = total[r] * keep + tile::row_sum(added);
      largest[r] = now;
      sum.scale_row(r, keep);
    }
    tile::store_weights(weights, p);
    __syncthreads();
    sum.add_product(weights, values);
  }
#pragma unroll
  for (int r = 0; r < tile::own_rows; ++r) {
    const std::int64_t query = first + tile::ty() * tile::own_rows + r;
    sum.scale_row(r, 1.0F / total[r]);
    if (lse != nullptr && tile::tx() == 0 && query < s.positions) {
      lse[(b * gridDim.y + h) * s.positions + query] = largest[r] + logf(total[r]);
    }
  }
  sum.write(out.at(b, h), out.position, first, s);
}

// delta[b, h, n] = out . dout, a warp a row.
template <class T>
__global__ void delta_kernel(tile::Heads<const T> out, tile::Heads<const T> dout, float* __restrict__ delta,
                             std::int64_t num_heads, std::int64_t num_rows, tile::Sizes s) {
  const std::int64_t row = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  if (row >= num_rows) return;
  const std::int64_t n = row % s.positions;
  const std::int64_t h = row / s.positions % num_heads;
  const std::int64_t b = row / s.positions / num_heads;
  float sum = 0;
  for (int d = lane; d < s.head_width; d += warp_width) {
    sum += to_f32(out.at(b, h)[n * out.position + d]) * to_f32(dout.at(b, h)[n * dout.position + d]);
  }
  sum = warp_sum(sum);
  if (lane == 0) delta[row] = sum;
}

template <class T, int Width>
__global__ void __launch_bounds__(tile::threads)
    query_backward_kernel(tile::Heads<const T> q, tile::Heads<const T> k, tile::Heads<const T> v,
                          tile::Heads<const T> dout, const float* __restrict__ lse, const float* __restrict__ delta,
                          tile::Heads<T> dq, tile::Sizes s) {
  extern __shared__ float4 aligned[];
  float* const queries = reinterpret_cast<float*>(aligned);
  float* const grads = queries + tile::rows * tile::length<Width>;
  float* const keys = grads + tile::rows * tile::length<Width>;
  float* const values = keys + tile::columns * tile::length<Width>;
  float* const weights = values + tile::columns * tile::length<Width>;
  const std::int64_t first = std::int64_t{blockIdx.x} * tile::rows;
  const std::int64_t h = blockIdx.y;
  const std::int64_t b = blockIdx.z;
  const std::int64_t kh = h / s.heads_a_key;
  const std::int64_t row = (b * gridDim.y + h) * s.positions;
  tile::load<Width, tile::rows>(queries, q.at(b, h), q.position, first, s);
  tile::load<Width, tile::rows>(grads, dout.at(b, h), dout.position, first, s);
  tile::Sum<Width> sum;
  sum.clear();
  const std::int64_t end = min(first + tile::rows, s.positions);
  for (std::int64_t key = first_keys(first, s); key < end; key += tile::columns) {
    __syncthreads();
    tile::load<Width, tile::columns>(keys, k.at(b, kh), k.position, key, s);
    tile::load<Width, tile::columns>(values, v.at(b, kh), v.position, key, s);
    __syncthreads();
    float p[tile::own_rows][tile::own_columns];
    float dp[tile::own_rows][tile::own_columns];
    tile::multiply_rows<Width>(queries, keys, p);
    tile::multiply_rows<Width>(grads, values, dp);
#pragma unroll
    for (int r = 0; r < tile::own_rows; ++r) {
      const std::int64_t query = first + tile::ty() * tile::own_rows + r;
#pragma unroll
      for (int c = 0; c < tile::own_columns; ++c) {
        const bool seen = tile::sees(query, key + tile::tx() + c * tile::side, s);
        p[r][c] = seen ? expf(p[r][c] * s.scale - lse[row + query]) * (dp[r][c] - delta[row + query]) * s.scale : 0.0F;
      }
    }
    tile::store_weights(weights, p);
    __syncthreads();
    sum.add_product(weights, keys);
  }
  sum.write(dq.at(b, h), dq.position, first, s);
}

template <class T, int Width>
__global__ void __launch_bounds__(tile::threads)
    key_backward_kernel(tile::Heads<const T> q, tile::Heads<const T> k, tile::Heads<const T> v,
                        tile::Heads<const T> dout, const float* __restrict__ lse, const float* __restrict__ delta,
                        tile::Heads<T> dk, tile::Heads<T> dv, tile::Sizes s) {
  extern __shared__ float4 aligned[];
  float* const keys = reinterpret_cast<float*>(aligned);
  float* const values = keys + tile::rows * tile::length<Width>;
  float* const queries = values + tile::rows * tile::length<Width>;
  float* const grads = queries + tile::columns * tile::length<Width>;
  float* const weights = grads + tile::columns * tile::length<Width>;  // the probabilities
  float* const slopes = weights + tile::rows * tile::weight_length;    // and d loss / d score
  const std::int64_t first = std::int64_t{blockIdx.x} * tile::rows;
  const std::int64_t kh = blockIdx.y;
  const std::int64_t b = blockIdx.z;
  tile::load<Width, tile::rows>(keys, k.at(b, kh), k.position, first, s);
  tile::load<Width, tile::rows>(values, v.at(b, kh), v.position, first, s);
  tile::Sum<Width> dkey;
  tile::Sum<Width> dvalue;
  dkey.clear();
  dvalue.clear();
  // The last query that sees the last of these keys.
  const std::int64_t end = s.window > 0 ? min(s.positions, first + tile::rows - 1 + s.window) : s.positions;
  for (std::int64_t h = kh * s.heads_a_key; h < (kh + 1) * s.heads_a_key; ++h) {
    const std::int64_t row = (b * gridDim.y * s.heads_a_key + h) * s.positions;
    for (std::int64_t begin = first; begin < end; begin += tile::columns) {
      __syncthreads();
      tile::load<Width, tile::columns>(queries, q.at(b, h), q.position, begin, s);
      tile::load<Width, tile::columns>(grads, dout.at(b, h), dout.position, begin, s);
      __syncthreads();
      float p[tile::own_rows][tile::own_columns];
      float dp[tile::own_rows][tile::own_columns];
      tile::multiply_rows<Width>(keys, queries, p);
      tile::multiply_rows<Width>(values, grads, dp);
#pragma unroll
      for (int r = 0; r < tile::own_rows; ++r) {
        const std::int64_t key = first + tile::ty() * tile::own_rows + r;
#pragma unroll
        for (int c = 0; c < tile::own_columns; ++c) {
          const std::int64_t query = begin + tile::tx() + c * tile::side;
          const bool seen = tile::sees(query, key, s);
          p[r][c] = seen ? expf(p[r][c] * s.scale - lse[row + query]) : 0.0F;
          dp[r][c] = seen ? p[r][c] * (dp[r][c] - delta[row + query]) * s.scale : 0.0F;
        }
      }
      tile::store_weights(weights, p);
      tile::store_weights(slopes, dp);
      __syncthreads();
      dvalue.add_product(weights, grads);
      dkey.add_product(slopes, queries);
    }
  }
  dkey.write(dk.at(b, kh), dk.position, first, s);
  dvalue.write(dv.at(b, kh), dv.position, first, s);
}

tile::Sizes sizes_of(const ConstTensorView& q, const ConstTensorView& k, std::int64_t window) {
  PHOTON_EXPECT(q.size(3) <= 128, "attention on a GPU with heads of width {} (at most 128)", q.size(3));
  PHOTON_EXPECT(q.size(0) <= 65535 && q.size(2) <= 65535, "attention on a GPU over {}", q.shape().str());
  return {.positions = q.size(1),
          .window = window,
          .head_width = static_cast<int>(q.size(3)),
          .heads_a_key = static_cast<int>(q.size(2) / k.size(2)),
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(3))))};
}

// Bytes of shared memory for so many head tiles of rows and of columns, and tiles of weights.
template <int Width>
constexpr std::int64_t shared_bytes(int row_tiles, int column_tiles, int weight_tiles) {
  return static_cast<std::int64_t>(sizeof(float)) *
         ((row_tiles * tile::rows + column_tiles * tile::columns) * tile::length<Width> +
          weight_tiles * tile::rows * tile::weight_length);
}

// Calls body with the width that tiles are padded to.
template <class Body>
void with_width(std::int64_t head_width, Body&& body) {
  if (head_width <= 64) {
    body(std::integral_constant<int, 64>{});
  } else {
    body(std::integral_constant<int, 128>{});
  }
}

dim3 grid_over(const ConstTensorView& x) {
  return {static_cast<unsigned>(ceil_div(x.size(1), tile::rows)), static_cast<unsigned>(x.size(2)),
          static_cast<unsigned>(x.size(0))};
}

}  // namespace

void stream_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, std::int64_t window, const TensorView& out,
                              const TensorView& lse) {
  if (out.numel() == 0) return;
  if (flash_fits(q, k, v, out)) return flash_forward(ctx, q, k, v, window, out, lse);
  const tile::Sizes s = sizes_of(q, k, window);
  with_float_type(q.dtype(), [&]<class T>(T) {
    with_width(q.size(3), [&]<int Width>(std::integral_constant<int, Width>) {
      constexpr std::int64_t shared = shared_bytes<Width>(1, 2, 1);
      allow_shared_memory(forward_kernel<T, Width>, shared);
      forward_kernel<T, Width><<<grid_over(q), tile::threads, static_cast<std::size_t>(shared), stream_of(ctx)>>>(
          heads_of<T>(q), heads_of<T>(k), heads_of<T>(v), heads_of<T>(out), optional_data<float>(lse), s);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void stream_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                               const ConstTensorView& v, const ConstTensorView& out, const ConstTensorView& lse,
                               const ConstTensorView& dout, std::int64_t window, const TensorView& dq,
                               const TensorView& dk, const TensorView& dv, const RopeTable* table) {
  if (q.numel() == 0) return;
  if (flash_fits(q, k, v, out) && all_pack(dout, dq, dk, dv)) {
    return flash_backward(ctx, q, k, v, out, lse, dout, window, dq, dk, dv, table);
  }
  const tile::Sizes s = sizes_of(q, k, window);
  const std::int64_t num_rows = q.size(0) * q.size(1) * q.size(2);
  Workspace workspace(ctx);
  auto* const delta = device_data<float>(workspace.take(DType::f32, {num_rows}));
  const float* const sums = device_data<float>(lse);
  with_float_type(q.dtype(), [&]<class T>(T) {
    delta_kernel<T>
        <<<grid_of(ceil_div(num_rows * warp_width, tile::threads), std::numeric_limits<int>::max()), tile::threads, 0,
           stream_of(ctx)>>>(heads_of<T>(out), heads_of<T>(dout), delta, q.size(2), num_rows, s);
    PHOTON_CUDA_CHECK(cudaGetLastError());
    with_width(q.size(3), [&]<int Width>(std::integral_constant<int, Width>) {
      constexpr std::int64_t query_shared = shared_bytes<Width>(2, 2, 1);
      allow_shared_memory(query_backward_kernel<T, Width>, query_shared);
      query_backward_kernel<T, Width>
          <<<grid_over(q), tile::threads, static_cast<std::size_t>(query_shared), stream_of(ctx)>>>(
              heads_of<T>(q), heads_of<T>(k), heads_of<T>(v), heads_of<T>(dout), sums, delta, heads_of<T>(dq), s);
      PHOTON_CUDA_CHECK(cudaGetLastError());
      constexpr std::int64_t key_shared = shared_bytes<Width>(2, 2, 2);
      allow_shared_memory(key_backward_kernel<T, Width>, key_shared);
      key_backward_kernel<T, Width>
          <<<grid_over(k), tile::threads, static_cast<std::size_t>(key_shared), stream_of(ctx)>>>(
              heads_of<T>(q), heads_of<T>(k), heads_of<T>(v), heads_of<T>(dout), sums, delta, heads_of<T>(dk),
              heads_of<T>(dv), s);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
  if (table == nullptr) return;
  cuda::rope(ctx, *table, dq, Rotation::backward);
  cuda::rope(ctx, *table, dk, Rotation::backward);
}

}  // namespace photon::cuda
