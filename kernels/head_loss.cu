// The CUDA bodies of head_loss.hpp: blocks of rows whose float32 logits fit the scratch arena, a block of threads a
// row.
#include "kernels/cuda/best.cuh"
#include "kernels/cuda/blas.hpp"
#include "kernels/cuda/scratch.hpp"
#include "kernels/cuda/sum.hpp"
#include "kernels/head_loss.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 512;

// One row of logits: its loss, and with `gradient` scale * d loss / d logits. G is f32 (gradient may be the logits) or
// bf16.
template <class G>
__global__ void row_kernel(const float* logits, const std::int32_t* __restrict__ targets,
                           const std::uint8_t* __restrict__ mask, double* __restrict__ loss,
                           float* __restrict__ token_loss, std::int32_t* __restrict__ argmax, G* gradient, float scale,
                           int vocabulary) {
  const std::int64_t row = blockIdx.x;
  logits += row * vocabulary;
  const bool counts = mask == nullptr || mask[row] != 0;
  if (!counts) {
    if (gradient != nullptr) {
      for (int v = static_cast<int>(threadIdx.x); v < vocabulary; v += threads)
        gradient[row * vocabulary + v] = from_f32<G>(0.0F);
    }
    if (threadIdx.x == 0) {
      loss[row] = 0;
      if (token_loss != nullptr) token_loss[row] = 0;
      if (argmax != nullptr) argmax[row] = 0;
    }
    return;
  }
  const Best best = block_best(logits, vocabulary);
  float exponentials = 0;
  for (int v = static_cast<int>(threadIdx.x); v < vocabulary; v += threads)
    exponentials += expf(logits[v] - best.value);
  const float sum = block_sum(exponentials);
  const std::int32_t target = targets[row];
  if (threadIdx.x == 0) {
    const float own = logf(sum) + (best.value - logits[target]);
    loss[row] = own;
    if (token_loss != nullptr) token_loss[row] = own;
    if (argmax != nullptr) argmax[row] = best.index == INT32_MAX ? 0 : best.index;
  }
  if (gradient == nullptr) return;
  __syncthreads();  // the target's logit has been read
  const float factor = scale / sum;
  for (int v = static_cast<int>(threadIdx.x); v < vocabulary; v += threads) {
    const float p = factor * expf(logits[v] - best.value);
    gradient[row * vocabulary + v] = from_f32<G>(v == target ? p - scale : p);
  }
}

struct Outputs {
  TensorView token_loss;
  TensorView argmax;
  TensorView dy;  // with dw: the backward pass
  TensorView dw;
};

double head_loss(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w, const ConstTensorView& targets,
                 const ConstTensorView& mask, double scale, const Outputs& outputs) {
  const std::int64_t num_rows = y.size(0);
  const std::int64_t vocabulary = w.size(0);
  if (num_rows == 0) return 0;
  const bool backward = static_cast<bool>(outputs.dy);
  const std::int64_t block = head_loss_rows(num_rows, vocabulary);
  Workspace workspace(ctx);
  const TensorView loss = workspace.take(DType::f64, {num_rows});
  const TensorView logits = workspace.take(DType::f32, {block, vocabulary});
  const bool separate = backward && y.dtype() != DType::f32;
  const TensorView gradient = separate ? workspace.take(y.dtype(), {block, vocabulary}) : logits;
  const bool row_independent = ctx.numerics == Numerics::deterministic;
  for (std::int64_t begin = 0; begin < num_rows; begin += block) {
    const std::int64_t count = std::min(block, num_rows - begin);
    const ConstTensorView rows = y.slice(0, begin, count);
    const TensorView here = logits.slice(0, 0, count);
    multiply(ctx, {.a = rows, .b = w, .b_transposed = true, .c = here, .row_independent = row_independent});
    const auto launch = [&]<class G>(G) {
      row_kernel<G><<<static_cast<unsigned>(count), threads, 0, stream_of(ctx)>>>(
          device_data<float>(here), device_data<std::int32_t>(targets.slice(0, begin, count)),
          mask ? device_data<std::uint8_t>(mask.slice(0, begin, count)) : nullptr,
          device_data<double>(loss.slice(0, begin, count)),
          outputs.token_loss ? device_data<float>(outputs.token_loss.slice(0, begin, count)) : nullptr,
          outputs.argmax ? device_data<std::int32_t>(outputs.argmax.slice(0, begin, count)) : nullptr,
          backward ? device_data<G>(gradient) : nullptr, static_cast<float>(scale), static_cast<int>(vocabulary));
    };
    if (separate) {
      launch(bf16{});
    } else {
      launch(float{});
    }
    PHOTON_CUDA_CHECK(cudaGetLastError());
    if (!backward) continue;
    const ConstTensorView slope = gradient.slice(0, 0, count);
    multiply(ctx, {.a = slope, .b = w, .c = outputs.dy.slice(0, begin, count), .row_independent = row_independent});
    multiply(ctx, {.a = slope, .a_transposed = true, .b = rows, .c = outputs.dw, .write = Write::accumulate});
  }
  return sum_on_host(ctx, loss);
}

}  // namespace

double head_loss_forward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                         const ConstTensorView& targets, const ConstTensorView& mask, const TensorView& token_loss,
                         const TensorView& argmax) {
  return head_loss(ctx, y, w, targets, mask, 1.0, {.token_loss = token_loss, .argmax = argmax, .dy = {}, .dw = {}});
}

double head_loss_backward(const Context& ctx, const ConstTensorView& y, const ConstTensorView& w,
                          const ConstTensorView& targets, const ConstTensorView& mask, double scale,
                          const TensorView& dy, const TensorView& dw) {
  return head_loss(ctx, y, w, targets, mask, scale, {.token_loss = {}, .argmax = {}, .dy = dy, .dw = dw});
}

}  // namespace photon::cuda
