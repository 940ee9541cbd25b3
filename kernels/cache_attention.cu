// The CUDA bodies of cache_attention.hpp. bf16 heads are attended by cuda/cache_rows.hpp. Here, for f32 and odd widths:
// a block a (row, position, query head), whose warps share out the cached positions; a lane holds every 32nd element of
// a head.
#include "kernels/cache_attention.hpp"
#include "kernels/cuda/cache_rows.hpp"
#include "kernels/cuda/common.cuh"

namespace photon::cuda {
namespace {

constexpr int append_threads = 256;
constexpr int threads = 256;
constexpr int num_warps = threads / warp_width;
constexpr int lane_elements = 4;
constexpr std::int64_t max_head_width = lane_elements * warp_width;

template <class T>
__global__ void append_kernel(const T* __restrict__ k, Strides ks, const T* __restrict__ v, Strides vs,
                              const std::int32_t* __restrict__ slot, const std::int32_t* __restrict__ first,
                              T* __restrict__ cache_k, Strides cks, T* __restrict__ cache_v, Strides cvs,
                              std::int64_t num_rows, std::int64_t num_positions, std::int64_t num_heads,
                              std::int64_t head_width, std::int64_t capacity) {
  const std::int64_t dropped = num_positions > capacity ? num_positions - capacity : 0;
  const std::int64_t kept = num_positions - dropped;
  const std::int64_t count = num_rows * kept * num_heads * head_width;
  const std::int64_t step = std::int64_t{gridDim.x} * append_threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * append_threads + threadIdx.x; i < count; i += step) {
    std::int64_t rest = i;
    const std::int64_t d = rest % head_width;
    rest /= head_width;
    const std::int64_t h = rest % num_heads;
    rest /= num_heads;
    const std::int64_t p = dropped + rest % kept;
    const std::int64_t r = rest / kept;
    const std::int64_t at = (first[r] + p) % capacity;
    cache_k[slot[r] * cks.outer + at * cks.position + h * cks.head + d] =
        k[r * ks.outer + p * ks.position + h * ks.head + d];
    cache_v[slot[r] * cvs.outer + at * cvs.position + h * cvs.head + d] =
        v[r * vs.outer + p * vs.position + h * vs.head + d];
  }
}

// A softmax under way over a part of the keys.
struct Running {
  float largest = -INFINITY;
  float sum = 0;
  float out[lane_elements] = {0, 0, 0, 0};
};

template <class T>
__global__ void attend_kernel(const T* __restrict__ q, Strides qs, const T* __restrict__ cache_k, Strides ks,
                              const T* __restrict__ cache_v, Strides vs, const std::int32_t* __restrict__ slot,
                              const std::int32_t* __restrict__ first, T* __restrict__ out, Strides os,
                              std::int64_t num_positions, int heads_a_key, int head_width, std::int64_t capacity,
                              std::int64_t window, float scale) {
  __shared__ float merged_largest[num_warps];
  __shared__ float merged_sum[num_warps];
  __shared__ float merged_out[num_warps][max_head_width];
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const std::int64_t r = blockIdx.x / num_positions;
  const std::int64_t p = blockIdx.x - r * num_positions;
  const std::int64_t h = blockIdx.y;
  const std::int64_t last = first[r] + p;
  const std::int64_t begin = window > 0 && last >= window ? last - window + 1 : 0;
  const T* const keys = cache_k + slot[r] * ks.outer + h / heads_a_key * ks.head;
  const T* const values = cache_v + slot[r] * vs.outer + h / heads_a_key * vs.head;
  float query[lane_elements];
  for (int e = 0; e < lane_elements; ++e) {
    const int d = lane + e * warp_width;
    query[e] = d < head_width ? to_f32(q[r * qs.outer + p * qs.position + h * qs.head + d]) * scale : 0.0F;
  }
  Running mine;
  for (std::int64_t j = begin + warp; j <= last; j += num_warps) {
    const std::int64_t at = j % capacity;
    float key[lane_elements];
    float value[lane_elements];
    for (int e = 0; e < lane_elements; ++e) {
      const int d = lane + e * warp_width;
      key[e] = d < head_width ? to_f32(keys[at * ks.position + d]) : 0.0F;
      value[e] = d < head_width ? to_f32(values[at * vs.position + d]) : 0.0F;
    }
    float score = 0;
    for (int e = 0; e < lane_elements; ++e) score += query[e] * key[e];
    score = warp_sum(score);
    const float largest = fmaxf(mine.largest, score);
    const float keep = expf(mine.largest - largest);
    const float weight = expf(score - largest);
    mine.largest = largest;
    mine.sum = mine.sum * keep + weight;
    for (int e = 0; e < lane_elements; ++e) mine.out[e] = mine.out[e] * keep + weight * value[e];
  }
  if (lane == 0) {
    merged_largest[warp] = mine.largest;
    merged_sum[warp] = mine.sum;
  }
  for (int e = 0; e < lane_elements; ++e) merged_out[warp][lane + e * warp_width] = mine.out[e];
  __syncthreads();
  float largest = -INFINITY;
  for (int i = 0; i < num_warps; ++i) largest = fmaxf(largest, merged_largest[i]);
  float sum = 0;
  for (int i = 0; i < num_warps; ++i) sum += merged_sum[i] * expf(merged_largest[i] - largest);
  for (int d = static_cast<int>(threadIdx.x); d < head_width; d += threads) {
    float total = 0;
    for (int i = 0; i < num_warps; ++i) total += merged_out[i][d] * expf(merged_largest[i] - largest);
    out[r * os.outer + p * os.position + h * os.head + d] = from_f32<T>(total / sum);
  }
}

}  // namespace

void cache_append(const Context& ctx, const ConstTensorView& k, const ConstTensorView& v, const ConstTensorView& slot,
                  const ConstTensorView& first, const TensorView& cache_k, const TensorView& cache_v) {
  if (k.numel() == 0) return;
  with_float_type(k.dtype(), [&]<class T>(T) {
    append_kernel<<<grid_of(ceil_div(k.numel(), append_threads)), append_threads, 0, stream_of(ctx)>>>(
        device_data<T>(k), strides_of(k), device_data<T>(v), strides_of(v), device_data<std::int32_t>(slot),
        device_data<std::int32_t>(first), device_data<T>(cache_k), strides_of(cache_k), device_data<T>(cache_v),
        strides_of(cache_v), k.size(0), k.size(1), k.size(2), k.size(3), cache_k.size(1));
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void cache_attention(const Context& ctx, const ConstTensorView& q, const ConstTensorView& cache_k,
                     const ConstTensorView& cache_v, const ConstTensorView& slot, const ConstTensorView& first,
                     std::int64_t window, const TensorView& out) {
  if (q.numel() == 0) return;
  if (cache_rows_fit(q, cache_k, cache_v, out)) {
    return cache_rows_attention(ctx, q, cache_k, cache_v, slot, first, window, out);
  }
  const std::int64_t head_width = q.size(3);
  PHOTON_EXPECT(head_width <= max_head_width, "attention on a GPU with heads of width {} (at most {})", head_width,
                max_head_width);
  PHOTON_EXPECT(q.size(2) <= 65535, "attention on a GPU with {} heads", q.size(2));
  with_float_type(q.dtype(), [&]<class T>(T) {
    const dim3 grid(static_cast<unsigned>(q.size(0) * q.size(1)), static_cast<unsigned>(q.size(2)));
    attend_kernel<<<grid, threads, 0, stream_of(ctx)>>>(
        device_data<T>(q), strides_of(q), device_data<T>(cache_k), strides_of(cache_k), device_data<T>(cache_v),
        strides_of(cache_v), device_data<std::int32_t>(slot), device_data<std::int32_t>(first), device_data<T>(out),
        strides_of(out), q.size(1), static_cast<int>(q.size(2) / cache_k.size(2)), static_cast<int>(head_width),
        cache_k.size(1), window, 1.0F / sqrtf(static_cast<float>(head_width)));
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
