// The CUDA bodies of group_attention.hpp. bf16 heads of 64 and 128 go to cuda/group_attention_warp.cu (up to 8
// positions) and cuda/group_attention_block.cu; here, for all others, a block a (group, key head). Everything of the
// group stands in shared memory as float32, so each of q, k, v, out is read or written once.
#include <cmath>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/group_attention.hpp"

namespace photon::cuda {
namespace {

struct Sizes {
  int positions;    // S
  int queries;      // Sq
  int head_width;   // hd
  int heads_a_key;  // query heads that share a key head
  float scale;
  const float* cosines;  // [positions, hd/2]; null: q and k come rotated
  const float* sines;
};

// Rows in shared memory are one float longer than a head, so that a column's elements lie in different banks.
__host__ __device__ inline int row_length(int head_width) {
  return head_width + 1;
}

template <class T>
__device__ void load_rows(float* __restrict__ to, const T* __restrict__ from, std::int64_t stride, int rows,
                          int width) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * width; i += static_cast<int>(blockDim.x)) {
    const int row = i / width;
    const int d = i - row * width;
    to[row * row_length(width) + d] = to_f32(from[row * stride + d]);
  }
}

// Turns rows in shared memory that stand at positions first, first + 1, ... of the group.
__device__ void rotate_rows(float* __restrict__ x, const Sizes& s, int first, int rows, float sign) {
  if (s.cosines == nullptr) return;
  const int half = s.head_width / 2;
  for (int i = static_cast<int>(threadIdx.x); i < rows * half; i += static_cast<int>(blockDim.x)) {
    const int row = i / half;
    const int d = i - row * half;
    const float cosine = s.cosines[(first + row) * half + d];
    const float sine = sign * s.sines[(first + row) * half + d];
    float* const low = x + row * row_length(s.head_width) + d;
    const float a = low[0];
    const float b = low[half];
    low[0] = rotated_low(a, b, cosine, sine);
    low[half] = rotated_high(a, b, cosine, sine);
  }
}

template <class T>
__device__ void store_rows(T* __restrict__ to, const float* __restrict__ from, std::int64_t stride, int rows,
                           int width) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * width; i += static_cast<int>(blockDim.x)) {
    const int row = i / width;
    const int d = i - row * width;
    to[row * stride + d] = from_f32<T>(from[row * row_length(width) + d]);
  }
}

__device__ inline float dot(const float* __restrict__ a, const float* __restrict__ b, int width) {
  float sum = 0;
  for (int d = 0; d < width; ++d) sum += a[d] * b[d];
  return sum;
}

// Rows of scores become probabilities; query i sees keys 0 .. offset + i, the others get 0. A warp a row.
__device__ void softmax_rows(float* __restrict__ scores, const Sizes& s) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int num_warps = static_cast<int>(blockDim.x) / warp_width;
  for (int i = static_cast<int>(threadIdx.x) / warp_width; i < s.queries; i += num_warps) {
    float* const row = scores + i * s.positions;
    const int visible = s.positions - s.queries + i + 1;
    float largest = -INFINITY;
    for (int j = lane; j < visible; j += warp_width) largest = fmaxf(largest, row[j]);
    largest = warp_max(largest);
    float sum = 0;
    for (int j = lane; j < visible; j += warp_width) sum += row[j] = expf(row[j] - largest);
    sum = warp_sum(sum);
    for (int j = lane; j < s.positions; j += warp_width) row[j] = j < visible ? row[j] / sum : 0.0F;
  }
}

template <class T>
__global__ void forward_kernel(const T* __restrict__ q, Strides qs, const T* __restrict__ k, Strides ks,
                               const T* __restrict__ v, Strides vs, T* __restrict__ out, Strides os, Sizes s) {
  extern __shared__ float shared[];
  const int length = row_length(s.head_width);
  float* const keys = shared;
  float* const values = keys + s.positions * length;
  float* const queries = values + s.positions * length;
  float* const scores = queries + s.queries * length;
  const std::int64_t g = blockIdx.x;
  const std::int64_t kh = blockIdx.y;
  const int num_threads = static_cast<int>(blockDim.x);
  load_rows(keys, k + g * ks.outer + kh * ks.head, ks.position, s.positions, s.head_width);
  load_rows(values, v + g * vs.outer + kh * vs.head, vs.position, s.positions, s.head_width);
  __syncthreads();
  rotate_rows(keys, s, 0, s.positions, 1.0F);
  for (std::int64_t h = kh * s.heads_a_key; h < (kh + 1) * s.heads_a_key; ++h) {
    load_rows(queries, q + g * qs.outer + h * qs.head, qs.position, s.queries, s.head_width);
    __syncthreads();
    if (s.cosines != nullptr) {
      rotate_rows(queries, s, s.positions - s.queries, s.queries, 1.0F);
      __syncthreads();
    }
    for (int pair = static_cast<int>(threadIdx.x); pair < s.queries * s.positions; pair += num_threads) {
      const int i = pair / s.positions;
      const int j = pair - i * s.positions;
      if (j <= s.positions - s.queries + i)
        scores[pair] = s.scale * dot(queries + i * length, keys + j * length, s.head_width);
    }
    __syncthreads();
    softmax_rows(scores, s);
    __syncthreads();
    T* const target = out + g * os.outer + h * os.head;
    for (int e = static_cast<int>(threadIdx.x); e < s.queries * s.head_width; e += num_threads) {
      const int i = e / s.head_width;
      const int d = e - i * s.head_width;
      float sum = 0;
      for (int j = 0; j <= s.positions - s.queries + i; ++j)
        sum += scores[i * s.positions + j] * values[j * length + d];
      target[i * os.position + d] = from_f32<T>(sum);
    }
    __syncthreads();
  }
}

template <class T>
__global__ void backward_kernel(const T* __restrict__ q, Strides qs, const T* __restrict__ k, Strides ks,
                                const T* __restrict__ v, Strides vs, const T* __restrict__ dout, Strides ds,
                                T* __restrict__ dq, Strides dqs, T* __restrict__ dk, Strides dks, T* __restrict__ dv,
                                Strides dvs, Sizes s) {
  extern __shared__ float shared[];
  const int length = row_length(s.head_width);
  float* const keys = shared;
  float* const values = keys + s.positions * length;
  float* const dkeys = values + s.positions * length;
  float* const dvalues = dkeys + s.positions * length;
  float* const queries = dvalues + s.positions * length;
  float* const grads = queries + s.queries * length;
  float* const scores = grads + s.queries * length;         // then the probabilities
  float* const dscores = scores + s.queries * s.positions;  // d loss / d probability, then / d score
  const std::int64_t g = blockIdx.x;
  const std::int64_t kh = blockIdx.y;
  const int num_threads = static_cast<int>(blockDim.x);
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int key_elements = s.positions * s.head_width;
  load_rows(keys, k + g * ks.outer + kh * ks.head, ks.position, s.positions, s.head_width);
  load_rows(values, v + g * vs.outer + kh * vs.head, vs.position, s.positions, s.head_width);
  __syncthreads();
  rotate_rows(keys, s, 0, s.positions, 1.0F);
  for (std::int64_t h = kh * s.heads_a_key; h < (kh + 1) * s.heads_a_key; ++h) {
    const bool is_first = h == kh * s.heads_a_key;
    load_rows(queries, q + g * qs.outer + h * qs.head, qs.position, s.queries, s.head_width);
    load_rows(grads, dout + g * ds.outer + h * ds.head, ds.position, s.queries, s.head_width);
    __syncthreads();
    if (s.cosines != nullptr) {
      rotate_rows(queries, s, s.positions - s.queries, s.queries, 1.0F);
      __syncthreads();
    }
    for (int pair = static_cast<int>(threadIdx.x); pair < s.queries * s.positions; pair += num_threads) {
      const int i = pair / s.positions;
      const int j = pair - i * s.positions;
      const bool visible = j <= s.positions - s.queries + i;
      if (visible) scores[pair] = s.scale * dot(queries + i * length, keys + j * length, s.head_width);
      dscores[pair] = visible ? dot(grads + i * length, values + j * length, s.head_width) : 0.0F;
    }
    __syncthreads();
    softmax_rows(scores, s);  // leaves each warp with the rows that it continues on
    __syncwarp();
    for (int i = static_cast<int>(threadIdx.x) / warp_width; i < s.queries; i += num_threads / warp_width) {
      float* const p = scores + i * s.positions;
      float* const dp = dscores + i * s.positions;
      float mean = 0;
      for (int j = lane; j < s.positions; j += warp_width) mean += p[j] * dp[j];
      mean = warp_sum(mean);
      for (int j = lane; j < s.positions; j += warp_width) dp[j] = s.scale * p[j] * (dp[j] - mean);
    }
    __syncthreads();
    // A thread owns the same elements of dk and dv for every query head.
    for (int e = static_cast<int>(threadIdx.x); e < key_elements; e += num_threads) {
      const int j = e / s.head_width;
      const int d = e - j * s.head_width;
      float dkey = is_first ? 0.0F : dkeys[j * length + d];
      float dvalue = is_first ? 0.0F : dvalues[j * length + d];
      for (int i = max(0, j - (s.positions - s.queries)); i < s.queries; ++i) {
        dkey += dscores[i * s.positions + j] * queries[i * length + d];
        dvalue += scores[i * s.positions + j] * grads[i * length + d];
      }
      dkeys[j * length + d] = dkey;
      dvalues[j * length + d] = dvalue;
    }
    __syncthreads();
    // The queries are done with: their gradients take their place.
    for (int e = static_cast<int>(threadIdx.x); e < s.queries * s.head_width; e += num_threads) {
      const int i = e / s.head_width;
      const int d = e - i * s.head_width;
      float sum = 0;
      for (int j = 0; j <= s.positions - s.queries + i; ++j) sum += dscores[i * s.positions + j] * keys[j * length + d];
      queries[i * length + d] = sum;
    }
    __syncthreads();
    if (s.cosines != nullptr) {
      rotate_rows(queries, s, s.positions - s.queries, s.queries, -1.0F);
      __syncthreads();
    }
    store_rows(dq + g * dqs.outer + h * dqs.head, queries, dqs.position, s.queries, s.head_width);
    __syncthreads();
  }
  rotate_rows(dkeys, s, 0, s.positions, -1.0F);
  __syncthreads();
  store_rows(dk + g * dks.outer + kh * dks.head, dkeys, dks.position, s.positions, s.head_width);
  store_rows(dv + g * dvs.outer + kh * dvs.head, dvalues, dvs.position, s.positions, s.head_width);
}

Sizes sizes_of(const ConstTensorView& q, const ConstTensorView& k, const RopeTable* table) {
  PHOTON_EXPECT(q.size(3) <= 128, "attention inside groups on a GPU with heads of width {} (at most 128)", q.size(3));
  PHOTON_EXPECT(k.size(1) <= max_group_positions && q.size(1) <= k.size(1), "{} queries and {} positions in a group",
                q.size(1), k.size(1));
  PHOTON_EXPECT(k.size(0) <= std::numeric_limits<int>::max() && k.size(2) <= 65535, "groups of shape {}",
                k.shape().str());
  return {.positions = static_cast<int>(k.size(1)),
          .queries = static_cast<int>(q.size(1)),
          .head_width = static_cast<int>(q.size(3)),
          .heads_a_key = static_cast<int>(q.size(2) / k.size(2)),
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(3)))),
          .cosines = table != nullptr ? device_data<float>(table->cosines()) : nullptr,
          .sines = table != nullptr ? device_data<float>(table->sines()) : nullptr};
}

// Few positions leave few pairs: small blocks, many of them.
int threads_for(const Sizes& s) {
  return s.positions <= 8 ? 64 : s.positions <= 24 ? 128 : 256;
}

}  // namespace

void group_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                             const ConstTensorView& v, const TensorView& out, const RopeTable* table) {
  if (out.numel() == 0) return;
  const GroupAttention all{
      .q = q, .k = k, .v = v, .table = table, .out = out, .dout = {}, .dq = {}, .dk = {}, .dv = {}};
  if (fits_a_warp(all)) return warp_group_attention(ctx, all);
  if (fits_a_block(all)) return block_group_attention(ctx, all);
  const Sizes s = sizes_of(q, k, table);
  const auto shared = static_cast<std::int64_t>(sizeof(float)) *
                      ((2 * s.positions + s.queries) * row_length(s.head_width) + s.queries * s.positions);
  const dim3 grid(static_cast<unsigned>(k.size(0)), static_cast<unsigned>(k.size(2)));
  with_float_type(q.dtype(), [&]<class T>(T) {
    allow_shared_memory(forward_kernel<T>, shared);
    forward_kernel<<<grid, threads_for(s), static_cast<std::size_t>(shared), stream_of(ctx)>>>(
        device_data<T>(q), strides_of(q), device_data<T>(k), strides_of(k), device_data<T>(v), strides_of(v),
        device_data<T>(out), strides_of(out), s);
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void group_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, const ConstTensorView& dout, const TensorView& dq,
                              const TensorView& dk, const TensorView& dv, const RopeTable* table) {
  if (k.numel() == 0) return;
  const GroupAttention all{
      .q = q, .k = k, .v = v, .table = table, .out = {}, .dout = dout, .dq = dq, .dk = dk, .dv = dv};
  if (dout.numel() > 0 && fits_a_warp(all)) return warp_group_attention(ctx, all);
  if (dout.numel() > 0 && fits_a_block(all)) return block_group_attention(ctx, all);
  const Sizes s = sizes_of(q, k, table);
  const auto shared = static_cast<std::int64_t>(sizeof(float)) *
                      ((4 * s.positions + 2 * s.queries) * row_length(s.head_width) + 2 * s.queries * s.positions);
  const dim3 grid(static_cast<unsigned>(k.size(0)), static_cast<unsigned>(k.size(2)));
  with_float_type(q.dtype(), [&]<class T>(T) {
    allow_shared_memory(backward_kernel<T>, shared);
    backward_kernel<<<grid, threads_for(s), static_cast<std::size_t>(shared), stream_of(ctx)>>>(
        device_data<T>(q), strides_of(q), device_data<T>(k), strides_of(k), device_data<T>(v), strides_of(v),
        device_data<T>(dout), strides_of(dout), device_data<T>(dq), strides_of(dq), device_data<T>(dk), strides_of(dk),
        device_data<T>(dv), strides_of(dv), s);
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
