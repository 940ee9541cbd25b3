// The CUDA body of sampling.hpp: weights by one block a row, a stable segmented sort, then the filters and the draw by
// one block a row. The weights are computed as the host computes them, bit for bit on processors with fused
// multiply-add, so that both choose the same token.
#include <cub/device/device_segmented_radix_sort.cuh>
#include <vector>

#include "kernels/cuda/best.cuh"
#include "kernels/cuda/host_exp.cuh"
#include "kernels/cuda/scratch.hpp"
#include "kernels/sampling.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 1024;
constexpr int num_warps = threads / warp_width;

struct DeviceRow {
  double uniform;
  double top_p;
  double min_p;
  std::int64_t seen_begin;
  std::int64_t seen_count;
  std::int32_t top_k;  // 0: off
  float factor;        // 1 / temperature; 0: greedy
  float penalty;
};

struct RowResult {
  std::int32_t token;
  std::int32_t usable;
  float logprob;
};

// penalised [rows, V]: the logits after the penalty, replaced by the weights for rows that are drawn; index [rows, V]
// counts up; begin and end are the row's segment to sort, empty for greedy rows.
__global__ void weigh_kernel(const float* __restrict__ logits, std::int64_t stride, const DeviceRow* __restrict__ rows,
                             const std::int32_t* __restrict__ seen, float* __restrict__ penalised,
                             std::int32_t* __restrict__ index, std::int32_t* __restrict__ begin,
                             std::int32_t* __restrict__ end, RowResult* __restrict__ results, int n) {
  const std::int64_t r = blockIdx.x;
  const DeviceRow row = rows[r];
  const float* const raw = logits + r * stride;
  float* const mine = penalised + r * n;
  int broken = 0;
  int finite = 0;
  for (int v = static_cast<int>(threadIdx.x); v < n; v += threads) {
    const float x = raw[v];
    finite |= isfinite(x) ? 1 : 0;
    broken |= isnan(x) || x == INFINITY ? 1 : 0;
    mine[v] = x;
    index[r * n + v] = v;
  }
  const bool usable = __syncthreads_or(finite) != 0 && __syncthreads_or(broken) == 0;
  for (std::int64_t i = threadIdx.x; i < row.seen_count; i += threads) {
    const std::int32_t token = seen[row.seen_begin + i];
    const float x = raw[token];  // the raw one: a token that was seen twice is penalised once
    mine[token] = x > 0 ? __fdiv_rn(x, row.penalty) : __fmul_rn(x, row.penalty);
  }
  __syncthreads();
  const Best best = block_best(mine, n);
  const bool draws = usable && row.factor > 0;
  if (threadIdx.x == 0) {
    results[r] = {best.index, usable ? 1 : 0, 0.0F};
    begin[r] = static_cast<std::int32_t>(r * n);
    end[r] = static_cast<std::int32_t>(draws ? (r + 1) * n : r * n);
  }
  if (!draws) return;
  for (int v = static_cast<int>(threadIdx.x); v < n; v += threads) {
    mine[v] = host_exp(__fmul_rn(__fsub_rn(mine[v], best.value), row.factor));
  }
}

struct Found {
  int index;   // n when there is none
  double sum;  // up to and with it; of all n when there is none
};

// The first of n descending weights at which their running sum exceeds `limit` (or_equal: reaches it).
__device__ Found first_beyond(const float* __restrict__ weights, int n, double limit, bool or_equal) {
  __shared__ double warp_total[num_warps];
  __shared__ Found found;
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  __syncthreads();
  if (threadIdx.x == 0) found = {n, 0.0};
  double carry = 0;
  for (int begin = 0; begin < n; begin += threads) {
    const int v = begin + static_cast<int>(threadIdx.x);
    double sum = v < n ? static_cast<double>(weights[v]) : 0.0;
    for (int step = 1; step < warp_width; step *= 2) {
      const double lower = __shfl_up_sync(full_warp, sum, step);
      if (lane >= step) sum += lower;
    }
    __syncthreads();
    if (lane == warp_width - 1) warp_total[warp] = sum;
    __syncthreads();
    double before = carry;
    for (int w = 0; w < warp; ++w) before += warp_total[w];
    double total = carry;
    for (int w = 0; w < num_warps; ++w) total += warp_total[w];
    sum += before;
    const bool beyond = v < n && (or_equal ? sum >= limit : sum > limit);
    // Sums of one chunk may round to a dip; the lowest index wins all the same.
    if (beyond) atomicMin(&found.index, v);
    if (__syncthreads_or(beyond ? 1 : 0) != 0) {
      if (found.index == v) found.sum = sum;
      __syncthreads();
      return found;
    }
    carry = total;
  }
  if (threadIdx.x == 0) found.sum = carry;
  __syncthreads();
  return found;
}

// How many of the n descending weights are at least `least` (and more than 0).
__device__ int count_from(const float* __restrict__ weights, int n, double least) {
  int low = 0;
  int high = n;
  while (low < high) {
    const int middle = (low + high) / 2;
    const bool kept = weights[middle] > 0 && static_cast<double>(weights[middle]) >= least;
    (kept ? low : high) = kept ? middle + 1 : middle;
  }
  return low;
}

__global__ void draw_kernel(const float* __restrict__ logits, std::int64_t stride, const DeviceRow* __restrict__ rows,
                            const float* __restrict__ sorted, const std::int32_t* __restrict__ order,
                            RowResult* __restrict__ results, bool want_logprobs, int n) {
  const std::int64_t r = blockIdx.x;
  const DeviceRow row = rows[r];
  if (results[r].usable == 0) return;
  std::int32_t token = results[r].token;
  if (row.factor > 0) {
    const float* const weights = sorted + r * n;
    int kept = row.top_k > 0 ? min(row.top_k, n) : n;
    double total = first_beyond(weights, kept, INFINITY, false).sum;
    if (row.top_p < 1) {
      const Found found = first_beyond(weights, kept, row.top_p * total, true);
      kept = min(found.index + 1, kept);
      total = found.sum;
    }
    if (row.min_p > 0) {
      kept = count_from(weights, kept, row.min_p);
      total = first_beyond(weights, kept, INFINITY, false).sum;
    }
    const int last = count_from(weights, kept, 0.0) - 1;  // rounding may leave the target at the very end
    const Found drawn = first_beyond(weights, kept, row.uniform * total, false);
    token = order[r * n + min(drawn.index, last)];
  }
  float logprob = 0;
  if (want_logprobs) {
    const float* const raw = logits + r * stride;
    const float largest = block_best(raw, n).value;
    double mine = 0;
    for (int v = static_cast<int>(threadIdx.x); v < n; v += threads)
      mine += static_cast<double>(expf(raw[v] - largest));
    const double sum = block_sum(mine);
    logprob = static_cast<float>(static_cast<double>(raw[token]) - static_cast<double>(largest) - log(sum));
  }
  __syncthreads();  // every thread has read the result of the greedy choice
  if (threadIdx.x == 0) results[r] = {token, 1, logprob};
}

// What the device needs of the rows, and the tokens they have seen, side by side.
struct HostRows {
  std::vector<DeviceRow> rows;
  std::vector<std::int32_t> seen;
};

HostRows describe(std::span<const SampleRow> rows) {
  HostRows result;
  result.rows.reserve(rows.size());
  for (const SampleRow& row : rows) {
    const SamplingOptions& o = row.options;
    const std::int64_t begin = static_cast<std::int64_t>(result.seen.size());
    if (o.repetition_penalty != 1) result.seen.insert(result.seen.end(), row.seen.begin(), row.seen.end());
    const double factor = o.temperature == 0
                              ? 0.0
                              : std::min(1.0 / o.temperature, static_cast<double>(std::numeric_limits<float>::max()));
    result.rows.push_back({.uniform = o.temperature == 0 ? 0.0 : sample_uniform(row.key),
                           .top_p = o.top_p,
                           .min_p = o.min_p,
                           .seen_begin = begin,
                           .seen_count = static_cast<std::int64_t>(result.seen.size()) - begin,
                           .top_k = static_cast<std::int32_t>(std::min<std::int64_t>(o.top_k, INT32_MAX)),
                           .factor = static_cast<float>(factor),
                           .penalty = static_cast<float>(o.repetition_penalty)});
  }
  return result;
}

template <class T>
T* upload(const Context& ctx, Workspace& workspace, const std::vector<T>& values) {
  const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(T));
  const TensorView there = workspace.take(DType::u8, {bytes});
  if (bytes > 0) {
    PHOTON_CUDA_CHECK(cudaMemcpyAsync(there.data(), values.data(), static_cast<std::size_t>(bytes),
                                      cudaMemcpyHostToDevice, stream_of(ctx)));
  }
  return static_cast<T*>(there.data());
}

// One block of rows; results receives their choices when the stream gets there.
void sample_block(const Context& ctx, const ConstTensorView& logits, std::span<const SampleRow> rows,
                  bool want_logprobs, std::vector<RowResult>& results) {
  const std::int64_t count = logits.size(0);
  const std::int64_t n = logits.size(1);
  const cudaStream_t stream = stream_of(ctx);
  const auto blocks = static_cast<unsigned>(count);
  Workspace workspace(ctx);
  const HostRows described = describe(rows);
  const DeviceRow* const device_rows = upload(ctx, workspace, described.rows);
  const std::int32_t* const seen = upload(ctx, workspace, described.seen);
  auto* const chosen =
      static_cast<RowResult*>(workspace.take(DType::u8, {count * static_cast<std::int64_t>(sizeof(RowResult))}).data());
  auto* const weights = device_data<float>(workspace.take(DType::f32, {count, n}));
  auto* const sorted = device_data<float>(workspace.take(DType::f32, {count, n}));
  auto* const index = device_data<std::int32_t>(workspace.take(DType::i32, {count, n}));
  auto* const order = device_data<std::int32_t>(workspace.take(DType::i32, {count, n}));
  auto* const begin = device_data<std::int32_t>(workspace.take(DType::i32, {count}));
  auto* const end = device_data<std::int32_t>(workspace.take(DType::i32, {count}));
  const float* const raw = device_data<float>(logits);
  weigh_kernel<<<blocks, threads, 0, stream>>>(raw, logits.stride(0), device_rows, seen, weights, index, begin, end,
                                               chosen, static_cast<int>(n));
  PHOTON_CUDA_CHECK(cudaGetLastError());
  const bool draws =
      std::any_of(rows.begin(), rows.end(), [](const SampleRow& row) { return row.options.temperature != 0; });
  if (draws) {
    std::size_t bytes = 0;
    const auto sort = [&](void* temporary) {
      PHOTON_CUDA_CHECK(cub::DeviceSegmentedRadixSort::SortPairsDescending(
          temporary, bytes, weights, sorted, index, order, static_cast<int>(count * n), static_cast<int>(count), begin,
          end, 0, 32, stream));
    };
    sort(nullptr);
    sort(workspace.take(DType::u8, {static_cast<std::int64_t>(bytes)}).data());
  }
  draw_kernel<<<blocks, threads, 0, stream>>>(raw, logits.stride(0), device_rows, sorted, order, chosen, want_logprobs,
                                              static_cast<int>(n));
  PHOTON_CUDA_CHECK(cudaGetLastError());
  results.resize(static_cast<std::size_t>(count));
  PHOTON_CUDA_CHECK(
      cudaMemcpyAsync(results.data(), chosen, results.size() * sizeof(RowResult), cudaMemcpyDeviceToHost, stream));
  PHOTON_CUDA_CHECK(cudaStreamSynchronize(stream));
}

}  // namespace

void sample(const Context& ctx, const ConstTensorView& logits, std::span<const SampleRow> rows,
            const TensorView& tokens, const TensorView& logprobs) {
  const std::int64_t num_rows = logits.size(0);
  const std::int64_t vocabulary = logits.size(1);
  if (num_rows == 0) return;
  PHOTON_EXPECT(vocabulary < std::numeric_limits<std::int32_t>::max() / 2, "sampling from {} logits", vocabulary);
  const std::int64_t block = sampling_rows(num_rows, vocabulary);
  std::vector<RowResult> results;
  for (std::int64_t first = 0; first < num_rows; first += block) {
    const std::int64_t count = std::min(block, num_rows - first);
    sample_block(ctx, logits.slice(0, first, count),
                 rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                 static_cast<bool>(logprobs), results);
    for (std::int64_t i = 0; i < count; ++i) {
      const RowResult& result = results[static_cast<std::size_t>(i)];
      if (result.usable == 0) {
        throw InputError(fmt::format("row {} of the logits cannot be sampled", first + i),
                         "it holds NaN or infinity, or no finite value", "check the model's weights and precision");
      }
      tokens.host<std::int32_t>()[first + i] = result.token;
      if (logprobs) logprobs.host<float>()[first + i] = result.logprob;
    }
  }
}

}  // namespace photon::cuda
