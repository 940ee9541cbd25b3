// The CUDA body of draw.hpp: a block a row, or a cluster of blocks where rows are few, which look for the largest logit
// together. Greedy rows take that one pass over the logits. Others look for the place in the
// order (descending weight, ascending index) at which a running sum reaches a limit, by histograms of the weights'
// bits. Sums are of weights in fixed point, 2^-46 of the largest: they do not depend on the order of addition.
#include <cooperative_groups.h>

#include "kernels/cuda/best.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/host_exp.cuh"
#include "kernels/cuda/row_exp_sum.cuh"
#include "kernels/draw.hpp"
#include "kernels/embedding.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 512;
constexpr int num_warps = threads / warp_width;
constexpr int buckets = 1024;  // a digit of 10 bits; the largest weight, 1.0, has 30 bits
constexpr int digits = 3;
constexpr double unit = 0x1p46;
constexpr int cluster = 8;             // blocks of a row
constexpr std::int64_t few_rows = 16;  // that get a cluster each

using Sum = unsigned long long;

__device__ inline std::uint64_t philox_bits(std::uint64_t key, std::uint64_t stream, std::uint64_t index) {
  std::uint32_t c0 = static_cast<std::uint32_t>(index);
  std::uint32_t c1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(stream);
  std::uint32_t c3 = static_cast<std::uint32_t>(stream >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key);
  std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return (std::uint64_t{c1} << 32) | c0;
}

// sample_uniform() of support/random.hpp's numbers.
__device__ inline double uniform_of(const DrawRow& row, std::int64_t offset) {
  const std::uint64_t bits =
      philox_bits(row.seed, philox_bits(row.request, row.sample, 0), static_cast<std::uint64_t>(row.position + offset));
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

// A row's logits after the penalty, and its weights.
struct Weights {
  const float* logits;
  const std::uint32_t* penalised;  // a bit a token; null: none
  float penalty;
  float largest;
  float factor;

  __device__ float logit(int v) const {
    const float x = logits[v];
    if (penalised == nullptr || (penalised[v / 32] >> (v % 32) & 1U) == 0) return x;
    return x > 0 ? __fdiv_rn(x, penalty) : __fmul_rn(x, penalty);
  }
  __device__ float operator()(int v) const { return host_exp(__fmul_rn(__fsub_rn(logit(v), largest), factor)); }
};

__device__ inline Sum fixed(float weight) {
  return static_cast<Sum>(static_cast<double>(weight) * unit);
}

// The first tokens of the order: all weights with larger bits than `bits`, and the `taken` lowest indices of those
// equal.
struct Cut {
  std::uint32_t bits;
  std::uint32_t taken;
  Sum sum;
};

enum class Measure { count, sum };

// The shortest beginning of the order whose count or sum is at least `limit` (which all tokens together reach).
__device__ Cut find_cut(const Weights& weights, int n, Measure measure, Sum limit) {
  __shared__ std::uint32_t count[buckets];
  __shared__ Sum sum[buckets];
  __shared__ std::uint32_t chosen;
  __shared__ Sum before_count;
  __shared__ Sum before_sum;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  std::uint32_t prefix = 0;
  if (threadIdx.x == 0) before_count = before_sum = 0;
  for (int digit = digits - 1; digit >= 0; --digit) {
    const int shift = 10 * digit;
    for (int b = static_cast<int>(threadIdx.x); b < buckets; b += threads) {
      count[b] = 0;
      sum[b] = 0;
    }
    __syncthreads();
    for (int v = static_cast<int>(threadIdx.x); v < n; v += threads) {
      const float w = weights(v);
      const std::uint32_t bits = __float_as_uint(w);
      if (bits >> (shift + 10) != prefix) continue;
      const std::uint32_t b = bits >> shift & (buckets - 1);
      atomicAdd(&count[b], 1U);
      atomicAdd(&sum[b], fixed(w));
    }
    __syncthreads();
    if (threadIdx.x < warp_width) {  // lane i has the i-th run of buckets from the top
      constexpr int run = buckets / warp_width;
      const int top = buckets - 1 - lane * run;
      Sum mine = 0;
      for (int i = 0; i < run; ++i) mine += measure == Measure::count ? count[top - i] : sum[top - i];
      Sum upto = mine;
      for (int step = 1; step < warp_width; step *= 2) {
        const Sum other = __shfl_up_sync(full_warp, upto, step);
        if (lane >= step) upto += other;
      }
      const Sum before = measure == Measure::count ? before_count : before_sum;
      const unsigned reached = __ballot_sync(full_warp, before + upto >= limit);
      const int owner = reached == 0 ? warp_width - 1 : __ffs(static_cast<int>(reached)) - 1;
      // What the runs before the owner's hold, in both measures.
      Sum counts = 0;
      Sum sums = 0;
      for (int i = 0; i < run; ++i) {
        counts += count[top - i];
        sums += sum[top - i];
      }
      Sum earlier_counts = lane < owner ? counts : 0;
      Sum earlier_sums = lane < owner ? sums : 0;
      earlier_counts = warp_sum(earlier_counts);
      earlier_sums = warp_sum(earlier_sums);
      if (lane == owner) {
        Sum c = before_count + earlier_counts;
        Sum s = before_sum + earlier_sums;
        int b = top;
        for (; b > top - run + 1; --b) {
          if ((measure == Measure::count ? c + count[b] : s + sum[b]) >= limit) break;
          c += count[b];
          s += sum[b];
        }
        before_count = c;
        before_sum = s;
        chosen = static_cast<std::uint32_t>(b);
      }
    }
    __syncthreads();
    prefix = prefix << 10 | chosen;
  }
  const Sum each = fixed(__uint_as_float(prefix));
  Sum taken =
      measure == Measure::count ? limit - before_count : (each == 0 ? 0 : (limit - before_sum + each - 1) / each);
  if (taken > count[chosen]) taken = count[chosen];
  const Cut cut{prefix, static_cast<std::uint32_t>(taken), before_sum + taken * each};
  __syncthreads();  // everyone has read what the next call overwrites
  return cut;
}

// The sum of all weights of at least `least`.
__device__ Sum total_from(const Weights& weights, int n, double least) {
  Sum mine = 0;
  for (int v = static_cast<int>(threadIdx.x); v < n; v += threads) {
    const float w = weights(v);
    if (static_cast<double>(w) >= least) mine += fixed(w);
  }
  return block_sum(mine);
}

// The last token of a cut: of the weights with these bits, the one with `taken` - 1 lower indices.
__device__ int last_of(const Weights& weights, int n, const Cut& cut) {
  __shared__ int warp_count[num_warps];
  __shared__ int found;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  if (threadIdx.x == 0) found = 0;
  int wanted = static_cast<int>(cut.taken) - 1;
  for (int begin = 0; begin < n; begin += threads) {
    const int v = begin + static_cast<int>(threadIdx.x);
    const bool equal = v < n && __float_as_uint(weights(v)) == cut.bits;
    const unsigned ballot = __ballot_sync(full_warp, equal);
    __syncthreads();
    if (lane == 0) warp_count[warp] = __popc(ballot);
    __syncthreads();
    int rank = __popc(ballot & ((1U << lane) - 1U));
    int all = 0;
    for (int w = 0; w < num_warps; ++w) {
      if (w < warp) rank += warp_count[w];
      all += warp_count[w];
    }
    if (wanted < all) {
      if (equal && rank == wanted) found = v;
      __syncthreads();
      return found;
    }
    wanted -= all;
  }
  __syncthreads();
  return found;
}

__device__ int draw_from(const Weights& weights, int n, const DrawRow& row, double uniform) {
  Sum total = 0;
  double least = 0;  // of the weights kept so far
  if (row.top_k > 0 && row.top_k < n) {
    const Cut cut = find_cut(weights, n, Measure::count, static_cast<Sum>(row.top_k));
    total = cut.sum;
    least = static_cast<double>(__uint_as_float(cut.bits));
  } else {
    total = total_from(weights, n, 0.0);
  }
  if (row.top_p < 1) {
    const auto limit = static_cast<Sum>(ceil(row.top_p * static_cast<double>(total)));
    const Cut cut = find_cut(weights, n, Measure::sum, limit < 1 ? 1 : (limit < total ? limit : total));
    total = cut.sum;
    least = static_cast<double>(__uint_as_float(cut.bits));
  }
  // Where the least weight that is kept passes min_p, all do.
  if (row.min_p > 0 && least < row.min_p) total = total_from(weights, n, row.min_p);
  Sum target = static_cast<Sum>(uniform * static_cast<double>(total));
  if (target >= total) target = total - 1;
  return last_of(weights, n, find_cut(weights, n, Measure::sum, target + 1));
}

// What a block has seen of a row's logits.
struct Seen {
  Best best;
  float raw_largest;
  int finite;  // whether any was, and whether any was broken
  int broken;
};

// The blocks' of a cluster as one, in the first of them.
template <int Blocks>
__device__ Seen together(const Seen& mine) {
  Seen all = mine;
#if __CUDA_ARCH__ >= 900
  if constexpr (Blocks > 1) {
    namespace cg = cooperative_groups;
    __shared__ Seen of_blocks[Blocks];
    const cg::cluster_group group = cg::this_cluster();
    if (threadIdx.x == 0) group.map_shared_rank(&of_blocks[0], 0)[group.block_rank()] = mine;
    group.sync();
    if (group.block_rank() == 0) {
      for (int b = 1; b < Blocks; ++b) {
        const Seen& other = of_blocks[b];
        all.best = better(all.best, other.best);
        all.raw_largest = fmaxf(all.raw_largest, other.raw_largest);
        all.finite |= other.finite;
        all.broken |= other.broken;
      }
    }
  }
#endif
  return all;
}

// Rows of an embedding table, in whole packs: out[r] = table[token of r].
struct EmbeddedRows {
  const uint4* table;
  std::int64_t table_stride;  // in packs, like the rest
  uint4* out;
  std::int64_t out_stride;
  int width;  // 0: none are wanted
};

template <int Blocks>
__global__ void __launch_bounds__(threads)
    draw_kernel(const float* logits, std::int64_t stride, const DrawRow* rows, const std::int32_t* forced,
                std::int32_t* history, std::int64_t history_stride, std::int64_t offset, std::int32_t* tokens,
                std::int32_t* chosen, float* logprobs, int n, const EmbeddedRows embedded) {
  extern __shared__ std::uint32_t penalised[];
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const std::int64_t r = blockIdx.x / Blocks;
  const int rank = static_cast<int>(blockIdx.x % Blocks);
  const int place = rank * threads + static_cast<int>(threadIdx.x);
  const DrawRow row = rows[r];
  std::int32_t* const past = history + row.slot * history_stride;
  const std::int64_t position = row.position + offset;
  std::int32_t token = forced[r];
  float logprob = 0;
  if (token == draw_token && logits == nullptr) {
    token = failed_token;
  } else if (token == draw_token) {
    const float* const raw = logits + r * stride;
    const bool penalty = row.repetition_penalty != 1.0 && position > 0;
    if (penalty) {
      for (int i = static_cast<int>(threadIdx.x); i < (n + 31) / 32; i += threads) penalised[i] = 0;
      __syncthreads();
      for (std::int64_t i = threadIdx.x; i < position; i += threads) {
        const std::int32_t seen = past[i];
        if (seen >= 0 && seen < n) atomicOr(&penalised[seen / 32], 1U << (seen % 32));
      }
      __syncthreads();
    }
    Weights weights{raw, penalty ? penalised : nullptr, static_cast<float>(row.repetition_penalty), 0.0F, 0.0F};
    const Best none{-INFINITY, INT32_MAX};
    Best best = none;
    float raw_largest = -INFINITY;
    int finite = 0;
    int broken = 0;
    const auto see = [&](int v, float x) {
      finite |= isfinite(x) ? 1 : 0;
      broken |= isnan(x) || x == INFINITY ? 1 : 0;
      raw_largest = fmaxf(raw_largest, x);
      best = better(best, {penalty ? weights.logit(v) : x, v});
    };
    // Four at a time from where 16-byte reads may begin.
    const int whole = reinterpret_cast<std::uintptr_t>(raw) % 16 == 0 ? n / 4 * 4 : 0;
#pragma unroll 4
    for (int v = place * 4; v < whole; v += Blocks * threads * 4) {
      const Pack<float, 4> x = load_pack<4>(raw + v);
#pragma unroll
      for (int i = 0; i < 4; ++i) see(v + i, x.v[i]);
    }
    for (int v = whole + place; v < n; v += Blocks * threads) see(v, raw[v]);
    finite = __syncthreads_or(finite);
    broken = __syncthreads_or(broken);
    __shared__ Best warp_bests[num_warps];
    __shared__ float warp_largest[num_warps];
    best = warp_best(best);
    raw_largest = warp_max(raw_largest);
    const int lane = static_cast<int>(threadIdx.x) % warp_width;
    if (lane == 0) {
      warp_bests[threadIdx.x / warp_width] = best;
      warp_largest[threadIdx.x / warp_width] = raw_largest;
    }
    __syncthreads();
    best = warp_best(lane < num_warps ? warp_bests[lane] : none);
    raw_largest = warp_max(lane < num_warps ? warp_largest[lane] : -INFINITY);
    const Seen seen = together<Blocks>({best, raw_largest, finite, broken});
    if (rank > 0) return;
    best = seen.best;
    raw_largest = seen.raw_largest;
    const bool usable = seen.finite != 0 && seen.broken == 0;
    token = failed_token;
    if (usable) {
      token = best.index;
      if (row.temperature > 0) {
        weights.largest = best.value;
        weights.factor = static_cast<float>(fmin(1.0 / row.temperature, static_cast<double>(3.402823466e+38F)));
        token = draw_from(weights, n, row, uniform_of(row, offset));
      }
      if (logprobs != nullptr) {
        const double sum = row_exp_sum(raw, n, raw_largest);
        logprob = static_cast<float>(static_cast<double>(raw[token]) - static_cast<double>(raw_largest) - log(sum));
      }
    }
  }
  if (rank > 0) return;
  const std::int32_t read = token == failed_token ? 0 : token;
  for (int i = static_cast<int>(threadIdx.x); i < embedded.width; i += threads)
    embedded.out[r * embedded.out_stride + i] = embedded.table[read * embedded.table_stride + i];
  if (threadIdx.x != 0) return;
  chosen[r] = token;
  tokens[r] = read;
  past[position] = read;
  if (logprobs != nullptr) logprobs[r] = logprob;
}

}  // namespace

void draw_tokens(const Context& ctx, const DrawCall& call) {
  const std::int64_t n = call.forced.size(0);
  if (n == 0) return;
  const std::int64_t vocabulary = call.logits ? call.logits.size(1) : 0;
  PHOTON_EXPECT(vocabulary < (std::int64_t{1} << 17), "drawing on a GPU from {} logits (at most 131,071)", vocabulary);
  const std::int64_t shared = ceil_div(vocabulary, 32) * static_cast<std::int64_t>(sizeof(std::uint32_t));
  EmbeddedRows embedded{};
  const bool packed = call.x && all_pack(call.table, ConstTensorView(call.x));
  if (packed) {
    const auto packs_of = [&](std::int64_t elements) {
      return elements * static_cast<std::int64_t>(size_of(call.x.dtype())) / static_cast<std::int64_t>(sizeof(uint4));
    };
    embedded = {.table = static_cast<const uint4*>(call.table.data()),
                .table_stride = packs_of(call.table.stride(0)),
                .out = static_cast<uint4*>(call.x.data()),
                .out_stride = packs_of(call.x.stride(0)),
                .width = static_cast<int>(packs_of(call.x.size(1)))};
  }
  const bool clusters = n <= few_rows && device_has_dependent_launch();
  launch_dependent_clusters(
      clusters ? draw_kernel<cluster> : draw_kernel<1>, dim3(static_cast<unsigned>(clusters ? n * cluster : n)),
      clusters ? cluster : 1, threads, shared, stream_of(ctx), optional_data<float>(ConstTensorView(call.logits)),
      call.logits ? call.logits.stride(0) : 0, reinterpret_cast<const DrawRow*>(device_data<std::uint8_t>(call.rows)),
      device_data<std::int32_t>(call.forced), device_data<std::int32_t>(call.history), call.history.stride(0),
      call.offset, device_data<std::int32_t>(call.tokens), device_data<std::int32_t>(call.chosen),
      optional_data<float>(call.logprobs), static_cast<int>(vocabulary), embedded);
  if (call.x && !packed) cuda::embedding_forward(ctx, call.table, call.tokens, call.x);
}

}  // namespace photon::cuda
