#include <cmath>

#include "kernels/cuda/cache_rows.hpp"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/scratch.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 128;
constexpr int num_warps = threads / warp_width;
constexpr int pack = full_pack<bf16>;
constexpr float log2_e = 1.44269504088896340736F;
// Positions that are swept before their result is merged into the row's. Caches of at most `lone` positions get a warp
// a (row, key head) and no second chunk.
constexpr int chunk = cache_rows_chunk;
constexpr int lone = 64;
constexpr unsigned few_blocks = 128;  // that do not fill a GPU, and ask for their caches early

struct Rows {
  const bf16* q;
  Strides q_at;
  // The new keys and values, one a row, that a step appends; nullptr in cache_attention.
  const bf16* new_k;
  Strides new_k_at;
  const bf16* new_v;
  Strides new_v_at;
  const float* cosines;
  const float* sines;
  bf16* cache_k;
  Strides k_at;
  bf16* cache_v;
  Strides v_at;
  const std::int32_t* slot;
  const std::int32_t* first;
  bf16* out;
  Strides out_at;
  float* parts;  // [problems, splits, queries, width + 2]: sums, then the largest score and the total
  std::int64_t num_problems;
  std::int64_t num_slots;
  int num_positions;
  int num_key_heads;
  int heads_a_key;
  int head_width;
  int capacity;
  int window;
  int tiles;   // of queries, a key head of a row
  int splits;  // blocks a problem; 1: one block sweeps all chunks
  float scale_log2;
};

__device__ inline float power(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Softmaxes under way over disjoint keys: the largest score, the sum of powers below it, and such a sum of values.
struct Factors {
  float mine;
  float theirs;
};
// Written with explicit roundings, so that every place where parts are merged gives the same bits.
__device__ inline Factors merge_totals(float& largest, float& total, float their_largest, float their_total) {
  const float now = fmaxf(largest, their_largest);
  const float shift = now == -INFINITY ? 0.0F : now;
  const Factors f{power(__fsub_rn(largest, shift)), power(__fsub_rn(their_largest, shift))};
  largest = now;
  total = __fmaf_rn(their_total, f.theirs, __fmul_rn(total, f.mine));
  return f;
}
__device__ inline float merge(float mine, float theirs, const Factors& f) {
  return __fmaf_rn(theirs, f.theirs, __fmul_rn(mine, f.mine));
}

// A pack of one head turned to its position, rounded to bf16 as rope() leaves it.
__device__ inline uint4 rotated(const bf16* head, int d, std::int64_t position, const Rows& a) {
  const int half = a.head_width / 2;
  const bool low = d < half;
  const Pack<bf16, pack> own = load_pack<pack>(head + d);
  const Pack<bf16, pack> other = load_pack<pack>(low ? head + d + half : head + d - half);
  const std::int64_t angle = position * half + (low ? d : d - half);
  Pack<bf16, pack> result;
#pragma unroll
  for (int e = 0; e < pack; ++e) {
    const float c = a.cosines[angle + e];
    const float s = a.sines[angle + e];
    const float x = to_f32(own.v[e]);
    const float y = to_f32(other.v[e]);
    result.v[e] = from_f32<bf16>(low ? rotated_low(x, y, c, s) : rotated_high(y, x, c, s));
  }
  return reinterpret_cast<const uint4&>(result);
}

// What a group of `Lanes` lanes, 8 elements of a head each, works on, and its sums.
template <int Lanes, int Queries>
struct Sweep {
  static constexpr int steps = Queries > 4 ? 2 : 4;  // positions whose loads are under way at once, a group

  float query[Queries][pack];
  int last[Queries];  // the position of each query; -1: there is none
  float largest[Queries];
  float total[Queries];
  float sum[Queries][pack];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < Queries; ++i) {
      largest[i] = -INFINITY;
      total[i] = 0;
#pragma unroll
      for (int e = 0; e < pack; ++e) sum[i][e] = 0;
    }
  }

  // Positions from .. to - 1, this group's being from + group + groups * i. `newest` is a position that comes from the
  // new keys and is written to the cache; -1: none.
  __device__ void add(int from, int to, int group, int groups, int newest, std::int64_t r, int kh, int d,
                      const Rows& a) {
    const bool inside = d < a.head_width;
    const bf16* const keys = a.cache_k + a.slot[r] * a.k_at.outer + kh * a.k_at.head + d;
    const bf16* const values = a.cache_v + a.slot[r] * a.v_at.outer + kh * a.v_at.head + d;
    const int start = from % a.capacity;
    for (int base = from; base < to; base += groups * steps) {
      uint4 key[steps];
      uint4 value[steps];
#pragma unroll
      for (int s = 0; s < steps; ++s) {
        const int j = base + s * groups + group;
        int at = start + (j - from);
        if (at >= a.capacity) at -= a.capacity;
        if (!inside || j >= to) {
          key[s] = make_uint4(0, 0, 0, 0);
          value[s] = make_uint4(0, 0, 0, 0);
        } else if (j == newest) {
          key[s] = rotated(a.new_k + r * a.new_k_at.outer + kh * a.new_k_at.head, d, j, a);
          value[s] = *reinterpret_cast<const uint4*>(a.new_v + r * a.new_v_at.outer + kh * a.new_v_at.head + d);
          *reinterpret_cast<uint4*>(const_cast<bf16*>(keys) + at * a.k_at.position) = key[s];
          *reinterpret_cast<uint4*>(const_cast<bf16*>(values) + at * a.v_at.position) = value[s];
        } else {
          key[s] = load_once(keys + at * a.k_at.position);
          value[s] = load_once(values + at * a.v_at.position);
        }
      }
      float score[steps][Queries];
#pragma unroll
      for (int s = 0; s < steps; ++s) {
        float x[pack];
        unpack(key[s], x);
        const int j = base + s * groups + group;
#pragma unroll
        for (int i = 0; i < Queries; ++i) {
          float dot = 0;
#pragma unroll
          for (int e = 0; e < pack; ++e) dot = fmaf(query[i][e], x[e], dot);
#pragma unroll
          for (int step = Lanes / 2; step > 0; step /= 2) dot += __shfl_xor_sync(full_warp, dot, step);
          const bool seen = j < to && j <= last[i] && (a.window == 0 || j > last[i] - a.window);
          score[s][i] = seen ? dot : -INFINITY;
        }
      }
#pragma unroll
      for (int i = 0; i < Queries; ++i) {
        float now = largest[i];
#pragma unroll
        for (int s = 0; s < steps; ++s) now = fmaxf(now, score[s][i]);
        const float shift = now == -INFINITY ? 0.0F : now;
        const float keep = power(largest[i] - shift);
        largest[i] = now;
        total[i] *= keep;
#pragma unroll
        for (int e = 0; e < pack; ++e) sum[i][e] *= keep;
#pragma unroll
        for (int s = 0; s < steps; ++s) {
          score[s][i] = power(score[s][i] - shift);
          total[i] += score[s][i];
        }
      }
#pragma unroll
      for (int s = 0; s < steps; ++s) {
        float x[pack];
        unpack(value[s], x);
#pragma unroll
        for (int i = 0; i < Queries; ++i) {
#pragma unroll
          for (int e = 0; e < pack; ++e) sum[i][e] = fmaf(score[s][i], x[e], sum[i][e]);
        }
      }
    }
    // The groups of a warp become one.
#pragma unroll
    for (int distance = Lanes; distance < warp_width; distance *= 2) {
#pragma unroll
      for (int i = 0; i < Queries; ++i) {
        const float their_largest = __shfl_xor_sync(full_warp, largest[i], distance);
        const float their_total = __shfl_xor_sync(full_warp, total[i], distance);
        const Factors f = merge_totals(largest[i], total[i], their_largest, their_total);
#pragma unroll
        for (int e = 0; e < pack; ++e) {
          sum[i][e] = merge(sum[i][e], __shfl_xor_sync(full_warp, sum[i][e], distance), f);
        }
      }
    }
  }
};

// One (row, key head, tile of queries), and which positions its queries see.
struct Problem {
  std::int64_t row;
  int key_head;
  int first_query;  // of the row's [positions, heads a key]
  int first_seen;
  int last_seen;

  __device__ Problem(std::int64_t index, int queries, const Rows& a) {
    const int tile = static_cast<int>(index % a.tiles);
    index /= a.tiles;
    key_head = static_cast<int>(index % a.num_key_heads);
    row = index / a.num_key_heads;
    first_query = tile * queries;
    const int last_query = min(first_query + queries, a.num_positions * a.heads_a_key) - 1;
    const int lowest = a.first[row] + first_query / a.heads_a_key;
    last_seen = a.first[row] + last_query / a.heads_a_key;
    first_seen = a.window > 0 ? max(0, lowest - a.window + 1) : 0;
    first_seen = max(first_seen, last_seen + 1 - a.capacity);  // older ones are no longer there
  }
  __device__ int chunks() const { return (last_seen - first_seen) / chunk + 1; }
};

template <int Lanes, int Queries>
__device__ void load_queries(Sweep<Lanes, Queries>& sweep, const Problem& problem, int d, const Rows& a) {
#pragma unroll
  for (int i = 0; i < Queries; ++i) {
    const int query = problem.first_query + i;
    const bool there = query < a.num_positions * a.heads_a_key;
    const int p = query / a.heads_a_key;
    sweep.last[i] = there ? a.first[problem.row] + p : -1;
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (there && d < a.head_width) {
      const bf16* const head = a.q + problem.row * a.q_at.outer + p * a.q_at.position +
                               (problem.key_head * a.heads_a_key + query % a.heads_a_key) * a.q_at.head;
      packed = a.new_k != nullptr ? rotated(head, d, sweep.last[i], a) : *reinterpret_cast<const uint4*>(head + d);
    }
    unpack(packed, sweep.query[i]);
#pragma unroll
    for (int e = 0; e < pack; ++e) sweep.query[i][e] *= a.scale_log2;
  }
}

__device__ inline bf16* result_head(const Problem& problem, int i, const Rows& a) {
  const int query = problem.first_query + i;
  return a.out + problem.row * a.out_at.outer + query / a.heads_a_key * a.out_at.position +
         (problem.key_head * a.heads_a_key + query % a.heads_a_key) * a.out_at.head;
}

// Small caches: a warp a problem.
template <int Lanes, int Queries>
__global__ void __launch_bounds__(threads) lone_kernel(Rows a) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const std::int64_t index = (std::int64_t{blockIdx.x} * threads + threadIdx.x) / warp_width;
  if (index >= a.num_problems) return;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int d = lane % Lanes * pack;
  const Problem problem(index, Queries, a);
  Sweep<Lanes, Queries> sweep;
  load_queries(sweep, problem, d, a);
  sweep.clear();
  const int newest = a.new_k != nullptr ? problem.last_seen : -1;
  sweep.add(problem.first_seen, problem.last_seen + 1, lane / Lanes, warp_width / Lanes, newest, problem.row,
            problem.key_head, d, a);
  if (lane >= Lanes || d >= a.head_width) return;
#pragma unroll
  for (int i = 0; i < Queries; ++i) {
    if (sweep.last[i] < 0) continue;
    Pack<bf16, pack> result;
#pragma unroll
    for (int e = 0; e < pack; ++e) result.v[e] = from_f32<bf16>(__fdiv_rn(sweep.sum[i][e], sweep.total[i]));
    store_pack(result_head(problem, i, a) + d, result);
  }
}

// Asks for the chunk of the caches that a block is going to read, while the kernel in front still runs: indices that it
// may yet change make this useless, not wrong.
__device__ inline void prefetch_chunk(const Rows& a) {
#if __CUDA_ARCH__ >= 900
  const std::int64_t index = blockIdx.x / a.splits;
  const int key_head = static_cast<int>(index / a.tiles % a.num_key_heads);
  const std::int64_t row = index / a.tiles / a.num_key_heads;
  const int slot = __ldcg(a.slot + row);
  const int last = __ldcg(a.first + row);
  if (slot < 0 || slot >= a.num_slots || last < 0) return;
  const int first = a.window > 0 ? max(0, last - a.window + 1) : 0;
  constexpr int line = 64;  // elements
  const int lines = (a.head_width + line - 1) / line;
  const int from = first + static_cast<int>(blockIdx.x % a.splits) * chunk;
  const int to = min(from + chunk, min(last, first + a.capacity));
  for (int i = static_cast<int>(threadIdx.x); i < (to - from) * lines; i += threads) {
    const int at = (from + i / lines) % a.capacity;
    const int d = i % lines * line;
    const bf16* const key = a.cache_k + slot * a.k_at.outer + at * a.k_at.position + key_head * a.k_at.head + d;
    const bf16* const value = a.cache_v + slot * a.v_at.outer + at * a.v_at.position + key_head * a.v_at.head + d;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(key));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(value));
  }
#endif
}

// A block a problem, or a chunk of one. Thread t holds element t % width of some queries' merged result.
template <int Lanes, int Queries>
__global__ void __launch_bounds__(threads) block_kernel(Rows a) {
  let_next_kernel_start();
  if (a.splits > 1 || gridDim.x <= few_blocks) prefetch_chunk(a);
  wait_for_earlier_kernels();
  constexpr int width = Lanes * pack;
  constexpr int queries_at_once = threads / width;
  constexpr int own = (Queries + queries_at_once - 1) / queries_at_once;
  __shared__ float part_largest[num_warps][Queries];
  __shared__ float part_total[num_warps][Queries];
  __shared__ float part_sum[num_warps][Queries][width];
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int d = lane % Lanes * pack;
  const int split = static_cast<int>(blockIdx.x % a.splits);
  const std::int64_t index = blockIdx.x / a.splits;
  const Problem problem(index, Queries, a);
  const int begin = a.splits > 1 ? split : 0;
  const int end = a.splits > 1 ? min(split + 1, problem.chunks()) : problem.chunks();
  if (begin >= end) return;
  Sweep<Lanes, Queries> sweep;
  load_queries(sweep, problem, d, a);
  const int element = static_cast<int>(threadIdx.x) % width;
  float largest[own];
  float total[own];
  float sum[own];
#pragma unroll
  for (int o = 0; o < own; ++o) {
    largest[o] = -INFINITY;
    total[o] = 0;
    sum[o] = 0;
  }
  for (int c = begin; c < end; ++c) {
    sweep.clear();
    const int from = problem.first_seen + c * chunk;
    const int newest = a.new_k != nullptr ? problem.last_seen : -1;
    sweep.add(from, min(from + chunk, problem.last_seen + 1), warp * (warp_width / Lanes) + lane / Lanes,
              threads / Lanes, newest, problem.row, problem.key_head, d, a);
    __syncthreads();  // the last chunk's parts have been read
    if (lane < Lanes) {
#pragma unroll
      for (int i = 0; i < Queries; ++i) {
        if (lane == 0) {
          part_largest[warp][i] = sweep.largest[i];
          part_total[warp][i] = sweep.total[i];
        }
#pragma unroll
        for (int e = 0; e < pack; ++e) part_sum[warp][i][d + e] = sweep.sum[i][e];
      }
    }
    __syncthreads();
#pragma unroll
    for (int o = 0; o < own; ++o) {
      const int i = static_cast<int>(threadIdx.x) / width + o * queries_at_once;
      if (i >= Queries) continue;
      float here = part_largest[0][i];
      float here_total = part_total[0][i];
      float here_sum = part_sum[0][i][element];
#pragma unroll
      for (int w = 1; w < num_warps; ++w) {
        const Factors f = merge_totals(here, here_total, part_largest[w][i], part_total[w][i]);
        here_sum = merge(here_sum, part_sum[w][i][element], f);
      }
      const Factors f = merge_totals(largest[o], total[o], here, here_total);
      sum[o] = merge(sum[o], here_sum, f);
    }
  }
#pragma unroll
  for (int o = 0; o < own; ++o) {
    const int i = static_cast<int>(threadIdx.x) / width + o * queries_at_once;
    if (i >= Queries || problem.first_query + i >= a.num_positions * a.heads_a_key) continue;
    if (a.splits > 1) {
      float* const part = a.parts + ((index * a.splits + split) * Queries + i) * (width + 2);
      part[element] = sum[o];
      if (element == 0) {
        part[width] = largest[o];
        part[width + 1] = total[o];
      }
    } else if (element < a.head_width) {
      result_head(problem, i, a)[element] = from_f32<bf16>(__fdiv_rn(sum[o], total[o]));
    }
  }
}

// Merges the chunks of split problems, in order: a block a query, a thread an element.
template <int Lanes, int Queries>
__global__ void __launch_bounds__(Lanes* pack) merge_kernel(Rows a) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  constexpr int width = Lanes * pack;
  const std::int64_t index = blockIdx.x / Queries;
  const int i = static_cast<int>(blockIdx.x % Queries);
  const Problem problem(index, Queries, a);
  if (problem.first_query + i >= a.num_positions * a.heads_a_key) return;
  const int element = static_cast<int>(threadIdx.x);
  float largest = -INFINITY;
  float total = 0;
  float sum = 0;
  for (int c = 0; c < problem.chunks(); ++c) {
    const float* const part = a.parts + ((index * a.splits + c) * Queries + i) * (width + 2);
    const Factors f = merge_totals(largest, total, part[width], part[width + 1]);
    sum = merge(sum, part[element], f);
  }
  if (element < a.head_width) result_head(problem, i, a)[element] = from_f32<bf16>(__fdiv_rn(sum, total));
}

template <int Lanes, int Queries>
void launch(const Context& ctx, Rows a, std::int64_t num_rows) {
  a.tiles = static_cast<int>(ceil_div(std::int64_t{a.num_positions} * a.heads_a_key, Queries));
  a.num_problems = num_rows * a.num_key_heads * a.tiles;
  const cudaStream_t stream = stream_of(ctx);
  if (a.capacity <= lone) {
    launch_dependent(lone_kernel<Lanes, Queries>, dim3(static_cast<unsigned>(ceil_div(a.num_problems, num_warps))),
                     threads, 0, stream, a);
    return;
  }
  const std::int64_t chunks = ceil_div(a.capacity, chunk);
  a.splits = a.num_problems < cache_rows_split_below ? static_cast<int>(chunks) : 1;
  const auto run = [&] {
    launch_dependent(block_kernel<Lanes, Queries>, dim3(static_cast<unsigned>(a.num_problems * a.splits)), threads, 0,
                     stream, a);
  };
  if (a.splits == 1) return run();
  Workspace workspace(ctx);
  a.parts = device_data<float>(workspace.take(DType::f32, {a.num_problems * a.splits * Queries * (Lanes * pack + 2)}));
  run();
  launch_dependent(merge_kernel<Lanes, Queries>, dim3(static_cast<unsigned>(a.num_problems * Queries)), Lanes * pack, 0,
                   stream, a);
}

void start(const Context& ctx, const Rows& a, std::int64_t num_rows) {
  const std::int64_t queries = std::int64_t{a.num_positions} * a.heads_a_key;
  PHOTON_EXPECT(num_rows * a.num_key_heads * queries < std::numeric_limits<int>::max() / 64,
                "attention on a GPU over {} rows of {} queries", num_rows, queries);
  const auto with_queries = [&]<int Lanes>(std::integral_constant<int, Lanes>) {
    if (queries == 1) return launch<Lanes, 1>(ctx, a, num_rows);
    if (queries == 2) return launch<Lanes, 2>(ctx, a, num_rows);
    if (queries <= 4) return launch<Lanes, 4>(ctx, a, num_rows);
    return launch<Lanes, 8>(ctx, a, num_rows);
  };
  if (a.head_width <= 64) {
    with_queries(std::integral_constant<int, 8>{});
  } else {
    with_queries(std::integral_constant<int, 16>{});
  }
}

Rows rows_of(const ConstTensorView& cache_k, const ConstTensorView& cache_v, const ConstTensorView& slot,
             const ConstTensorView& first, std::int64_t window, std::int64_t num_query_heads) {
  Rows a{};
  // The caches are written by a step alone, which was given them as writable views.
  a.cache_k = const_cast<bf16*>(device_data<bf16>(cache_k));
  a.k_at = strides_of(cache_k);
  a.cache_v = const_cast<bf16*>(device_data<bf16>(cache_v));
  a.v_at = strides_of(cache_v);
  a.slot = device_data<std::int32_t>(slot);
  a.first = device_data<std::int32_t>(first);
  a.num_slots = cache_k.size(0);
  a.num_key_heads = static_cast<int>(cache_k.size(2));
  a.heads_a_key = static_cast<int>(num_query_heads / cache_k.size(2));
  a.head_width = static_cast<int>(cache_k.size(3));
  a.capacity = static_cast<int>(cache_k.size(1));
  a.window = static_cast<int>(std::min<std::int64_t>(window, cache_k.size(1)));
  a.splits = 1;
  a.scale_log2 = static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.head_width))) * log2_e;
  return a;
}

}  // namespace

bool cache_rows_fit(const ConstTensorView& q, const ConstTensorView& cache_k, const ConstTensorView& cache_v,
                    const ConstTensorView& out) {
  const std::int64_t width = cache_k.size(3);
  return q.dtype() == DType::bf16 && width % pack == 0 && width <= 128 &&
         cache_k.size(1) < std::numeric_limits<std::int32_t>::max() / 2 && all_pack(q, cache_k, cache_v, out);
}

void cache_rows_attention(const Context& ctx, const ConstTensorView& q, const ConstTensorView& cache_k,
                          const ConstTensorView& cache_v, const ConstTensorView& slot, const ConstTensorView& first,
                          std::int64_t window, const TensorView& out) {
  Rows a = rows_of(cache_k, cache_v, slot, first, window, q.size(2));
  a.q = device_data<bf16>(q);
  a.q_at = strides_of(q);
  a.out = device_data<bf16>(out);
  a.out_at = strides_of(out);
  a.num_positions = static_cast<int>(q.size(1));
  start(ctx, a, q.size(0));
}

void cache_rows_step(const Context& ctx, const RopeTable& table, const AttentionStep& step) {
  Rows a = rows_of(step.cache_k, step.cache_v, step.slot, step.first, step.window, step.q.size(2));
  a.q = device_data<bf16>(step.q);
  a.q_at = strides_of(step.q);
  a.new_k = device_data<bf16>(step.k);
  a.new_k_at = strides_of(step.k);
  a.new_v = device_data<bf16>(step.v);
  a.new_v_at = strides_of(step.v);
  a.cosines = device_data<float>(table.cosines());
  a.sines = device_data<float>(table.sines());
  a.out = device_data<bf16>(step.out);
  a.out_at = strides_of(step.out);
  a.num_positions = 1;
  start(ctx, a, step.q.size(0));
}

}  // namespace photon::cuda
