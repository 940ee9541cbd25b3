// The CUDA bodies of attention_step.hpp. Local decoders: a warp a (row, key head) rotates, appends
// and attends in one kernel. One new bf16 position: cuda/cache_rows.hpp. Others: one kernel rotates and appends, then
// cache_attention.
#include "kernels/attention_step.hpp"
#include "kernels/cache_attention.hpp"
#include "kernels/cuda/cache_rows.hpp"
#include "kernels/cuda/dependent_launch.cuh"

namespace photon::cuda {
namespace {

constexpr int threads = 256;
constexpr int num_warps = threads / warp_width;
constexpr int held = 8;                         // positions of a short cache that a warp keeps in registers
constexpr std::int64_t most_held_warps = 1024;  // that fit a GPU at once, with all these registers

template <class T>
struct Step {
  T* q;
  Strides qs;
  T* k;
  Strides ks;
  const T* v;
  Strides vs;
  const std::int32_t* slot;
  const std::int32_t* first;
  T* cache_k;
  Strides cks;
  T* cache_v;
  Strides cvs;
  T* out;
  Strides os;
  const float* cosines;
  const float* sines;
  std::int64_t rows;
  std::int64_t capacity;
  std::int64_t window;
  int positions;
  int queries;
  int key_heads;
  int sharing;  // query heads a key head
  int head_width;
  float scale;
};

template <class T>
Step<T> step_of(const RopeTable& table, const AttentionStep& s) {
  return {.q = device_data<T>(s.q),
          .qs = strides_of(s.q),
          .k = device_data<T>(s.k),
          .ks = strides_of(s.k),
          .v = device_data<T>(s.v),
          .vs = strides_of(s.v),
          .slot = device_data<std::int32_t>(s.slot),
          .first = device_data<std::int32_t>(s.first),
          .cache_k = device_data<T>(s.cache_k),
          .cks = strides_of(s.cache_k),
          .cache_v = device_data<T>(s.cache_v),
          .cvs = strides_of(s.cache_v),
          .out = device_data<T>(s.out),
          .os = strides_of(s.out),
          .cosines = device_data<float>(table.cosines()),
          .sines = device_data<float>(table.sines()),
          .rows = s.k.size(0),
          .capacity = s.cache_k.size(1),
          .window = s.window,
          .positions = static_cast<int>(s.k.size(1)),
          .queries = static_cast<int>(s.q.size(1)),
          .key_heads = static_cast<int>(s.k.size(2)),
          .sharing = static_cast<int>(s.q.size(2) / s.k.size(2)),
          .head_width = static_cast<int>(s.k.size(3)),
          .scale = 1.0F / sqrtf(static_cast<float>(s.k.size(3)))};
}

// Turns elements lane * V .. lane * V + V - 1 of a head: the partner of element d is d + hd/2, 16 lanes further.
template <class T, int V>
__device__ void rotate(Pack<T, V>& x, const float* cosines, const float* sines, std::int64_t position, int lane) {
  constexpr int half = V * warp_width / 2;
  const bool low = lane < warp_width / 2;
  const std::int64_t angle = position * half + (lane % (warp_width / 2)) * V;
  const Pack<float, V> c = load_pack<V>(cosines + angle);
  const Pack<float, V> s = load_pack<V>(sines + angle);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const float mine = to_f32(x.v[j]);
    const float other = __shfl_xor_sync(full_warp, mine, warp_width / 2);
    x.v[j] = from_f32<T>(low ? mine * c.v[j] - other * s.v[j] : mine * c.v[j] + other * s.v[j]);
  }
}

template <class T, int V>
__device__ Pack<T, V> rotated(const T* head, const float* cosines, const float* sines, std::int64_t position,
                              int lane) {
  Pack<T, V> x = load_pack<V>(head + lane * V);
  rotate(x, cosines, sines, position, lane);
  return x;
}

template <class T, int V>
__global__ void __launch_bounds__(threads) short_kernel(const Step<T> s) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const std::int64_t index = std::int64_t{blockIdx.x} * num_warps + threadIdx.x / warp_width;
  if (index >= s.rows * s.key_heads) return;
  const std::int64_t r = index / s.key_heads;
  const std::int64_t h = index - r * s.key_heads;
  const std::int64_t first = s.first[r];
  T* const keys = s.cache_k + s.slot[r] * s.cks.outer + h * s.cks.head + lane * V;
  T* const values = s.cache_v + s.slot[r] * s.cvs.outer + h * s.cvs.head + lane * V;
  for (int p = 0; p < s.positions; ++p) {
    const Pack<T, V> k =
        rotated<T, V>(s.k + r * s.ks.outer + p * s.ks.position + h * s.ks.head, s.cosines, s.sines, first + p, lane);
    store_pack(keys + (first + p) * s.cks.position, k);
    store_pack(values + (first + p) * s.cvs.position,
               load_pack<V>(s.v + r * s.vs.outer + p * s.vs.position + h * s.vs.head + lane * V));
  }
  // Every lane reads back what it wrote itself, so nothing must be waited for.
  for (int p = 0; p < s.queries; ++p) {
    const std::int64_t last = first + s.positions - s.queries + p;
    for (int g = 0; g < s.sharing; ++g) {
      const std::int64_t query_head = h * s.sharing + g;
      const Pack<T, V> q = rotated<T, V>(s.q + r * s.qs.outer + p * s.qs.position + query_head * s.qs.head, s.cosines,
                                         s.sines, last, lane);
      float largest = -INFINITY;
      float sum = 0;
      float out[V];
#pragma unroll
      for (int j = 0; j < V; ++j) out[j] = 0;
      // Several positions at a time, so that their loads and sums overlap.
      constexpr int batch = 4;
      for (std::int64_t at = 0; at <= last; at += batch) {
        Pack<T, V> key[batch];
        Pack<T, V> value[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          const std::int64_t here = at + i <= last ? at + i : last;
          key[i] = load_pack<V>(keys + here * s.cks.position);
          value[i] = load_pack<V>(values + here * s.cvs.position);
        }
        float score[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          score[i] = 0;
#pragma unroll
          for (int j = 0; j < V; ++j) score[i] += to_f32(q.v[j]) * to_f32(key[i].v[j]);
        }
        float next = largest;
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          score[i] = at + i <= last ? warp_sum(score[i]) * s.scale : -INFINITY;
          next = fmaxf(next, score[i]);
        }
        const float keep = __expf(largest - next);
        largest = next;
        sum *= keep;
#pragma unroll
        for (int j = 0; j < V; ++j) out[j] *= keep;
#pragma unroll
        for (int i = 0; i < batch; ++i) {
          const float weight = __expf(score[i] - next);
          sum += weight;
#pragma unroll
          for (int j = 0; j < V; ++j) out[j] += weight * to_f32(value[i].v[j]);
        }
      }
      Pack<T, V> result;
#pragma unroll
      for (int j = 0; j < V; ++j) result.v[j] = from_f32<T>(out[j] / sum);
      store_pack(s.out + r * s.os.outer + p * s.os.position + query_head * s.os.head + lane * V, result);
    }
  }
}

// A softmax under way over the keys of one query.
template <class T, int V>
struct Sum {
  float largest = -INFINITY;
  float total = 0;
  float out[V] = {};

  // Several positions at a time, so that their loads and sums overlap; the first `count` are seen.
  static constexpr int batch = 4;
  __device__ void add(const Pack<T, V>& q, const Pack<T, V>* key, const Pack<T, V>* value, int count, float scale) {
    float score[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      score[i] = 0;
#pragma unroll
      for (int j = 0; j < V; ++j) score[i] += to_f32(q.v[j]) * to_f32(key[i].v[j]);
    }
    float next = largest;
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      score[i] = i < count ? warp_sum(score[i]) * scale : -INFINITY;
      next = fmaxf(next, score[i]);
    }
    const float keep = __expf(largest - next);
    largest = next;
    total *= keep;
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] *= keep;
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const float weight = __expf(score[i] - next);
      total += weight;
#pragma unroll
      for (int j = 0; j < V; ++j) out[j] += weight * to_f32(value[i].v[j]);
    }
  }
  __device__ Pack<T, V> result() const {
    Pack<T, V> r;
#pragma unroll
    for (int j = 0; j < V; ++j) r.v[j] = from_f32<T>(out[j] / total);
    return r;
  }
};

#if __CUDA_ARCH__ >= 900
__device__ inline void prefetch(const void* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}
#else
__device__ inline void prefetch(const void*) {}
#endif

// Asks for what a (row, key head) will read of its caches and of the rope table, while the kernel in front still runs:
// indices that it may yet change make this useless, not wrong.
template <class T>
__device__ void prefetch_cached(const Step<T>& s, std::int64_t r, std::int64_t h, std::int64_t slots, int lane) {
  constexpr int line = 128;
  const std::int64_t slot = __ldcg(s.slot + r);
  const std::int64_t first = __ldcg(s.first + r);
  if (slot < 0 || slot >= slots || first < 0 || first >= s.capacity) return;
  const int lines = (s.head_width * static_cast<int>(sizeof(T)) + line - 1) / line;
  const int elements = line / static_cast<int>(sizeof(T));
  for (int i = lane; i < first * lines; i += warp_width) {
    const std::int64_t position = i / lines;
    const int d = i % lines * elements;
    prefetch(s.cache_k + slot * s.cks.outer + position * s.cks.position + h * s.cks.head + d);
    prefetch(s.cache_v + slot * s.cvs.outer + position * s.cvs.position + h * s.cvs.head + d);
  }
  const int angles = s.positions * s.head_width / 2;
  for (int i = lane * (line / static_cast<int>(sizeof(float))); i < angles; i += warp_width * line / 4) {
    prefetch(s.cosines + first * s.head_width / 2 + i);
    prefetch(s.sines + first * s.head_width / 2 + i);
  }
}

// short_kernel where rows are few and caches have at most `held` positions: all that a (row, key head) reads is on its
// way at once, and waits in registers. The same bits.
template <class T, int V>
__global__ void __launch_bounds__(threads) held_kernel(const Step<T> s, std::int64_t slots) {
  using Elements = Pack<T, V>;
  let_next_kernel_start();
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const std::int64_t index = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / warp_width;
  if (index >= s.rows * s.key_heads) return;
  const std::int64_t r = index / s.key_heads;
  const std::int64_t h = index - r * s.key_heads;
  prefetch_cached(s, r, h, slots, lane);
  wait_for_earlier_kernels();
  const std::int64_t slot = __ldcg(s.slot + r);
  const int first = __ldcg(s.first + r);
  T* const keys = s.cache_k + slot * s.cks.outer + h * s.cks.head + lane * V;
  T* const values = s.cache_v + slot * s.cvs.outer + h * s.cvs.head + lane * V;
  const T* const new_k = s.k + r * s.ks.outer + h * s.ks.head + lane * V;
  const T* const new_v = s.v + r * s.vs.outer + h * s.vs.head + lane * V;
  const T* const queries = s.q + r * s.qs.outer + h * s.sharing * s.qs.head + lane * V;
  Elements q = load_pack<V>(queries);
  Elements key[held];
  Elements value[held];
#pragma unroll
  for (int j = 0; j < held; ++j) {
#pragma unroll
    for (int e = 0; e < V; ++e) key[j].v[e] = value[j].v[e] = from_f32<T>(0.0F);
    if (j < first) {
      key[j] = load_pack<V>(keys + j * s.cks.position);
      value[j] = load_pack<V>(values + j * s.cvs.position);
    } else if (j < first + s.positions) {
      key[j] = load_pack<V>(new_k + (j - first) * s.ks.position);
      value[j] = load_pack<V>(new_v + (j - first) * s.vs.position);
    }
  }
#pragma unroll
  for (int j = 0; j < held; ++j) {
    if (j < first || j >= first + s.positions) continue;
    rotate(key[j], s.cosines, s.sines, j, lane);
    store_pack(keys + j * s.cks.position, key[j]);
    store_pack(values + j * s.cvs.position, value[j]);
  }
  const int num_queries = s.queries * s.sharing;
  for (int i = 0; i < num_queries; ++i) {
    const int p = i / s.sharing;
    const int g = i - p * s.sharing;
    const int last = first + s.positions - s.queries + p;
    rotate(q, s.cosines, s.sines, last, lane);
    const Elements query = q;
    if (i + 1 < num_queries) {
      const int next = (i + 1) / s.sharing;
      q = load_pack<V>(queries + next * s.qs.position + (i + 1 - next * s.sharing) * s.qs.head);
    }
    Sum<T, V> sum;
#pragma unroll
    for (int at = 0; at < held; at += Sum<T, V>::batch) {
      if (at <= last) sum.add(query, key + at, value + at, last + 1 - at, s.scale);
    }
    store_pack(s.out + r * s.os.outer + p * s.os.position + (h * s.sharing + g) * s.os.head + lane * V, sum.result());
  }
}

// Heads 0 .. Hq-1 of a row are queries, the next Hkv keys, the last Hkv values; a thread a pack of pairs.
template <class T, int V>
__global__ void rotate_append_kernel(const Step<T> s) {
  const int half = s.head_width / 2;
  const int packs = half / V;
  const int query_heads = s.key_heads * s.sharing;
  const int heads = query_heads + 2 * s.key_heads;
  const std::int64_t count = s.rows * s.positions * heads * packs;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < count; i += step) {
    std::int64_t rest = i;
    const int d = static_cast<int>(rest % packs) * V;
    rest /= packs;
    const int h = static_cast<int>(rest % heads);
    rest /= heads;
    const int p = static_cast<int>(rest % s.positions);
    const std::int64_t r = rest / s.positions;
    const std::int64_t position = s.first[r] + p;
    const bool is_query = h < query_heads;
    const bool is_key = !is_query && h < query_heads + s.key_heads;
    const int query = p - (s.positions - s.queries);
    if (is_query && query < 0) continue;
    const T* from = nullptr;
    T* to = nullptr;
    if (is_query) {
      to = s.q + r * s.qs.outer + query * s.qs.position + h * s.qs.head + d;
      from = to;
    } else {
      const std::int64_t at = position % s.capacity;
      const int head = is_key ? h - query_heads : h - query_heads - s.key_heads;
      from = is_key ? s.k + r * s.ks.outer + p * s.ks.position + head * s.ks.head + d
                    : s.v + r * s.vs.outer + p * s.vs.position + head * s.vs.head + d;
      to = is_key ? s.cache_k + s.slot[r] * s.cks.outer + at * s.cks.position + head * s.cks.head + d
                  : s.cache_v + s.slot[r] * s.cvs.outer + at * s.cvs.position + head * s.cvs.head + d;
    }
    Pack<T, V> low = load_pack<V>(from);
    Pack<T, V> high = load_pack<V>(from + half);
    if (is_query || is_key) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float c = s.cosines[position * half + d + j];
        const float sine = s.sines[position * half + d + j];
        const float a = to_f32(low.v[j]);
        const float b = to_f32(high.v[j]);
        low.v[j] = from_f32<T>(a * c - b * sine);
        high.v[j] = from_f32<T>(b * c + a * sine);
      }
    }
    store_pack(to, low);
    store_pack(to + half, high);
  }
}

__global__ void shift_kernel(const std::int32_t* __restrict__ first, std::int32_t by, std::int32_t* __restrict__ to,
                             std::int64_t n) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < n) to[i] = first[i] + by;
}

template <class T>
__global__ void fill_kernel(const T* __restrict__ k, Strides ks, const T* __restrict__ v, Strides vs,
                            const std::int32_t* __restrict__ slot, const std::int32_t* __restrict__ length,
                            T* __restrict__ cache_k, Strides cks, T* __restrict__ cache_v, Strides cvs,
                            std::int64_t rows, std::int64_t positions, std::int64_t heads, std::int64_t head_width,
                            std::int64_t capacity) {
  const std::int64_t count = rows * positions * heads * head_width;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < count; i += step) {
    std::int64_t rest = i;
    const std::int64_t d = rest % head_width;
    rest /= head_width;
    const std::int64_t h = rest % heads;
    rest /= heads;
    const std::int64_t p = rest % positions;
    const std::int64_t r = rest / positions;
    if (p >= length[r] || p < length[r] - capacity) continue;
    const std::int64_t at = p % capacity;
    cache_k[slot[r] * cks.outer + at * cks.position + h * cks.head + d] =
        k[r * ks.outer + p * ks.position + h * ks.head + d];
    cache_v[slot[r] * cvs.outer + at * cvs.position + h * cvs.head + d] =
        v[r * vs.outer + p * vs.position + h * vs.head + d];
  }
}

}  // namespace

void attention_step(const Context& ctx, const RopeTable& table, const AttentionStep& s) {
  if (s.k.numel() == 0) return;
  const std::int64_t head_width = s.k.size(3);
  const bool packed = all_pack(ConstTensorView(s.q), ConstTensorView(s.k), s.v, ConstTensorView(s.cache_k),
                               ConstTensorView(s.cache_v), ConstTensorView(s.out));
  const bool whole_lanes = head_width == 64 || head_width == 128;
  if (s.local && s.window == 0 && whole_lanes && packed) {
    const std::int64_t warps = s.k.size(0) * s.k.size(2);
    with_float_type(s.q.dtype(), [&]<class T>(T) {
      const auto launch = [&]<int V>(std::integral_constant<int, V>) {
        const Step<T> step = step_of<T>(table, s);
        if (warps <= most_held_warps && s.cache_k.size(1) <= held) {
          const int block = warps <= 64 ? warp_width : threads;  // the fewest are spread over the multiprocessors
          launch_dependent(held_kernel<T, V>, dim3(grid_of(ceil_div(warps * warp_width, block))), block, 0,
                           stream_of(ctx), step, s.cache_k.size(0));
        } else {
          const unsigned blocks = grid_of(ceil_div(warps, num_warps), std::numeric_limits<int>::max());
          launch_dependent(short_kernel<T, V>, dim3(blocks), threads, 0, stream_of(ctx), step);
        }
      };
      if (head_width == 128) {
        launch(std::integral_constant<int, 4>{});
      } else {
        launch(std::integral_constant<int, 2>{});
      }
    });
    PHOTON_CUDA_CHECK(cudaGetLastError());
    return;
  }
  if (s.k.size(1) == 1 && packed && head_width % 16 == 0 && cache_rows_fit(s.q, s.cache_k, s.cache_v, s.out)) {
    return cache_rows_step(ctx, table, s);
  }
  const std::int64_t half = head_width / 2;
  with_float_type(s.q.dtype(), [&]<class T>(T) {
    with_pack<T>(packed && half % full_pack<T> == 0, [&]<int V>(std::integral_constant<int, V>) {
      const std::int64_t count = s.k.size(0) * s.k.size(1) * (s.q.size(2) + 2 * s.k.size(2)) * half / V;
      rotate_append_kernel<T, V>
          <<<grid_of(ceil_div(count, threads)), threads, 0, stream_of(ctx)>>>(step_of<T>(table, s));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
  const std::int64_t skipped = s.k.size(1) - s.q.size(1);
  if (skipped == 0) {
    cuda::cache_attention(ctx, s.q, s.cache_k, s.cache_v, s.slot, s.first, s.window, s.out);
    return;
  }
  Workspace workspace(ctx);
  const TensorView asked = workspace.take(DType::i32, {s.first.size(0)});
  shift_kernel<<<grid_of(ceil_div(s.first.size(0), threads)), threads, 0, stream_of(ctx)>>>(
      device_data<std::int32_t>(s.first), static_cast<std::int32_t>(skipped), device_data<std::int32_t>(asked),
      s.first.size(0));
  PHOTON_CUDA_CHECK(cudaGetLastError());
  cuda::cache_attention(ctx, s.q, s.cache_k, s.cache_v, s.slot, asked, s.window, s.out);
}

void cache_fill(const Context& ctx, const ConstTensorView& k, const ConstTensorView& v, const ConstTensorView& slot,
                const ConstTensorView& length, const TensorView& cache_k, const TensorView& cache_v) {
  if (k.numel() == 0) return;
  with_float_type(k.dtype(), [&]<class T>(T) {
    fill_kernel<<<grid_of(ceil_div(k.numel(), threads)), threads, 0, stream_of(ctx)>>>(
        device_data<T>(k), strides_of(k), device_data<T>(v), strides_of(v), device_data<std::int32_t>(slot),
        device_data<std::int32_t>(length), device_data<T>(cache_k), strides_of(cache_k), device_data<T>(cache_v),
        strides_of(cache_v), k.size(0), k.size(1), k.size(2), k.size(3), cache_k.size(1));
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
