// The CUDA bodies of head_loss.hpp: blocks of rows whose logits fit the scratch arena, a block of threads a row. The
// gradient takes the logits' place.
#include "kernels/cuda/best.cuh"
#include "kernels/cuda/blas.hpp"
#include "kernels/cuda/scratch.hpp"
#include "kernels/cuda/sum.hpp"
#include "kernels/head_loss.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 512;
constexpr float log2_e = 1.4426950408889634F;

// What a row of logits becomes.
struct RowOutputs {
  const std::int32_t* __restrict__ targets;
  const std::uint8_t* __restrict__ mask;  // null: every row counts
  double* __restrict__ loss;
  float* __restrict__ token_loss;     // null when not asked for
  std::int32_t* __restrict__ argmax;  // likewise
  bool gradient;                      // the logits become scale * d loss / d logits
  float scale;
};

// For one thread of the block.
__device__ inline void write_row(const RowOutputs& out, std::int64_t row, float loss, std::int32_t best) {
  out.loss[row] = loss;
  if (out.token_loss != nullptr) out.token_loss[row] = loss;
  if (out.argmax != nullptr) out.argmax[row] = best == INT32_MAX ? 0 : best;
}

// A row that is read as often as it is used: any vocabulary.
template <class L>
__global__ void row_kernel(L* logits, RowOutputs out, int vocabulary) {
  const std::int64_t row = blockIdx.x;
  logits += row * vocabulary;
  if (out.mask != nullptr && out.mask[row] == 0) {
    if (out.gradient) {
      for (int v = static_cast<int>(threadIdx.x); v < vocabulary; v += threads) logits[v] = from_f32<L>(0.0F);
    }
    if (threadIdx.x == 0) write_row(out, row, 0, 0);
    return;
  }
  const Best best = block_best(logits, vocabulary);
  float exponentials = 0;
  for (int v = static_cast<int>(threadIdx.x); v < vocabulary; v += threads)
    exponentials += expf(to_f32(logits[v]) - best.value);
  const float sum = block_sum(exponentials);
  const std::int32_t target = out.targets[row];
  if (threadIdx.x == 0) write_row(out, row, logf(sum) + (best.value - to_f32(logits[target])), best.index);
  if (!out.gradient) return;
  __syncthreads();  // the target's logit has been read
  const float factor = out.scale / sum;
  for (int v = static_cast<int>(threadIdx.x); v < vocabulary; v += threads) {
    const float p = factor * expf(to_f32(logits[v]) - best.value);
    logits[v] = from_f32<L>(v == target ? p - out.scale : p);
  }
}

// The same for rows of at most N packs a thread, which stay in registers: read once, written once.
template <class L, int N, bool finds_index>
__global__ void __launch_bounds__(threads, N <= 8 ? 2 : 1) held_row_kernel(L* logits, RowOutputs out, int vocabulary) {
  constexpr int V = full_pack<L>;
  const std::int64_t row = blockIdx.x;
  logits += row * vocabulary;
  const auto at = [](int i) { return (i * threads + static_cast<int>(threadIdx.x)) * V; };
  if (out.mask != nullptr && out.mask[row] == 0) {
    const HeldPack<L> zeros{};
    for (int i = 0; out.gradient && at(i) < vocabulary; ++i) store_held(logits + at(i), zeros);
    if (threadIdx.x == 0) write_row(out, row, 0, 0);
    return;
  }
  HeldPack<L> x[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (at(i) < vocabulary) x[i] = load_held(logits + at(i));
  }
  const std::int32_t target = out.targets[row];
  const float target_logit = to_f32(logits[target]);
  Best best = no_best();
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (at(i) >= vocabulary) continue;
#pragma unroll
    for (int j = 0; j < HeldPack<L>::num_pairs; ++j) {
      const float2 logit = x[i].pair(j);
      if constexpr (finds_index) {
        if (logit.x > best.value) best = {logit.x, at(i) + 2 * j};
        if (logit.y > best.value) best = {logit.y, at(i) + 2 * j + 1};
      } else {
        best.value = fmaxf(best.value, fmaxf(logit.x, logit.y));
      }
    }
  }
  best = block_best(best);
  const float shift = best.value * log2_e;
  const auto exponential = [&](float logit) { return exp2f(fmaf(logit, log2_e, -shift)); };
  float exponentials = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (at(i) >= vocabulary) continue;
#pragma unroll
    for (int j = 0; j < HeldPack<L>::num_pairs; ++j) {
      const float2 logit = x[i].pair(j);
      exponentials += exponential(logit.x) + exponential(logit.y);
    }
  }
  const float sum = block_sum(exponentials);
  if (threadIdx.x == 0) write_row(out, row, logf(sum) + (best.value - target_logit), best.index);
  if (!out.gradient) return;
  const float factor = out.scale / sum;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (at(i) >= vocabulary) continue;
#pragma unroll
    for (int j = 0; j < HeldPack<L>::num_pairs; ++j) {
      const float2 logit = x[i].pair(j);
      x[i].set_pair(j, {factor * exponential(logit.x), factor * exponential(logit.y)});
    }
    store_held(logits + at(i), x[i]);
  }
  // The thread that has written the target's gradient corrects it.
  if (target / V % threads == static_cast<int>(threadIdx.x))
    logits[target] = from_f32<L>(factor * exponential(target_logit) - out.scale);
}

template <class L, int N>
void launch_held_rows(cudaStream_t stream, unsigned rows, L* logits, const RowOutputs& out, int vocabulary) {
  if (out.argmax != nullptr) {
    held_row_kernel<L, N, true><<<rows, threads, 0, stream>>>(logits, out, vocabulary);
  } else {
    held_row_kernel<L, N, false><<<rows, threads, 0, stream>>>(logits, out, vocabulary);
  }
}

template <class L>
void launch_rows(cudaStream_t stream, const TensorView& logits, const RowOutputs& out) {
  const auto rows = static_cast<unsigned>(logits.size(0));
  const auto vocabulary = static_cast<int>(logits.size(1));
  const std::int64_t packs_a_thread = ceil_div(vocabulary, std::int64_t{threads} * full_pack<L>);
  L* const data = device_data<L>(logits);
  if (!packs(logits) || packs_a_thread > 16) {
    row_kernel<<<rows, threads, 0, stream>>>(data, out, vocabulary);
  } else if (packs_a_thread <= 1) {
    launch_held_rows<L, 1>(stream, rows, data, out, vocabulary);
  } else if (packs_a_thread <= 4) {
    launch_held_rows<L, 4>(stream, rows, data, out, vocabulary);
  } else if (packs_a_thread <= 8) {
    launch_held_rows<L, 8>(stream, rows, data, out, vocabulary);
  } else {
    launch_held_rows<L, 16>(stream, rows, data, out, vocabulary);
  }
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

struct Outputs {
  TensorView token_loss;
  TensorView argmax;
  TensorView dy;  // with dw: the backward pass
  TensorView dw;
};

// Losses of the rows [N] f64, in `workspace`.
TensorView head_loss(const Context& ctx, Workspace& workspace, const ConstTensorView& y, const ConstTensorView& w,
                     const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                     const Outputs& outputs) {
  const std::int64_t num_rows = y.size(0);
  const std::int64_t vocabulary = w.size(0);
  const bool backward = static_cast<bool>(outputs.dy);
  // Training rounds the logits as it rounds activations; what is only measured is measured in float32.
  const DType dtype = backward ? y.dtype() : DType::f32;
  const std::int64_t block = head_loss_rows(num_rows, vocabulary, dtype);
  const TensorView loss = workspace.take(DType::f64, {num_rows});
  const TensorView logits = workspace.take(dtype, {block, vocabulary});
  const bool row_independent = ctx.numerics == Numerics::deterministic;
  for (std::int64_t begin = 0; begin < num_rows; begin += block) {
    const std::int64_t count = std::min(block, num_rows - begin);
    const ConstTensorView rows = y.slice(0, begin, count);
    const TensorView here = logits.slice(0, 0, count);
    multiply(ctx, {.a = rows, .b = w, .b_transposed = true, .c = here, .row_independent = row_independent});
    const RowOutputs out = {
        .targets = device_data<std::int32_t>(targets.slice(0, begin, count)),
        .mask = mask ? device_data<std::uint8_t>(mask.slice(0, begin, count)) : nullptr,
        .loss = device_data<double>(loss.slice(0, begin, count)),
        .token_loss = outputs.token_loss ? device_data<float>(outputs.token_loss.slice(0, begin, count)) : nullptr,
        .argmax = outputs.argmax ? device_data<std::int32_t>(outputs.argmax.slice(0, begin, count)) : nullptr,
        .gradient = backward,
        .scale = static_cast<float>(scale)};
    with_float_type(dtype, [&]<class L>(L) { launch_rows<L>(stream_of(ctx), here, out); });
    if (!backward) continue;
    multiply(ctx, {.a = here, .b = w, .c = outputs.dy.slice(0, begin, count), .row_independent = row_independent});
    multiply(ctx, {.a = here, .a_transposed = true, .b = rows, .c = outputs.dw, .added = outputs.dw});
  }
  return loss;
}

}  // namespace

double head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                         const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& token_loss,
                         const TensorView& argmax) {
  if (y.size(0) == 0) return 0;
  Workspace workspace(ctx);
  return sum_on_host(ctx, head_loss(ctx, workspace, y, w, targets, mask, 1.0,
                                    {.token_loss = token_loss, .argmax = argmax, .dy = {}, .dw = {}}));
}

double head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                          const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                          const TensorView& dy, const TensorView& dw) {
  if (y.size(0) == 0) return 0;
  Workspace workspace(ctx);
  return sum_on_host(
      ctx, head_loss(ctx, workspace, y, w, targets, mask, scale, {.token_loss = {}, .argmax = {}, .dy = dy, .dw = dw}));
}

void add_head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                           const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& total) {
  if (y.size(0) == 0) return;
  Workspace workspace(ctx);
  add_sum(ctx,
          head_loss(ctx, workspace, y, w, targets, mask, 1.0, {.token_loss = {}, .argmax = {}, .dy = {}, .dw = {}}),
          total);
}

void add_head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                            const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                            const TensorView& dy, const TensorView& dw, const TensorView& total) {
  if (y.size(0) == 0) return;
  Workspace workspace(ctx);
  add_sum(ctx,
          head_loss(ctx, workspace, y, w, targets, mask, scale, {.token_loss = {}, .argmax = {}, .dy = dy, .dw = dw}),
          total);
}

}  // namespace photon::cuda
