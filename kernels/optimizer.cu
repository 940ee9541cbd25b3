// The CUDA bodies of optimizer.hpp.
#include <cmath>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/scratch.hpp"
#include "kernels/cuda/sum.hpp"
#include "kernels/optimizer.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

struct Constants {
  float shrink;  // 1 - learning_rate * weight_decay
  float beta1;
  float rest1;  // 1 - beta1
  float beta2;
  float rest2;
  float step_size;        // learning_rate / (1 - beta1^step)
  float root_correction;  // 1 / sqrt(1 - beta2^step)
  float eps;
  float gradient_scale;
};

__device__ void update(const Constants& c, float& p, float g, float& m, float& v) {
  g *= c.gradient_scale;
  m = c.beta1 * m + c.rest1 * g;
  v = c.beta2 * v + c.rest2 * g * g;
  p = p * c.shrink - c.step_size * m / (sqrtf(v) * c.root_correction + c.eps);
}

template <int V>
__global__ void adamw_kernel(Constants c, float* __restrict__ p, const float* __restrict__ g, float* __restrict__ m,
                             float* __restrict__ v, bf16* __restrict__ rounded, std::int64_t num_packs) {
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_packs; i += step) {
    Pack<float, V> pp = load_pack<V>(p + i * V);
    const Pack<float, V> gg = load_pack<V>(g + i * V);
    Pack<float, V> mm = load_pack<V>(m + i * V);
    Pack<float, V> vv = load_pack<V>(v + i * V);
    for (int j = 0; j < V; ++j) update(c, pp.v[j], gg.v[j], mm.v[j], vv.v[j]);
    store_pack(p + i * V, pp);
    store_pack(m + i * V, mm);
    store_pack(v + i * V, vv);
    if (rounded == nullptr) continue;
    Pack<bf16, V> copy;
    for (int j = 0; j < V; ++j) copy.v[j] = from_f32<bf16>(pp.v[j]);
    store_pack(rounded + i * V, copy);
  }
}

template <int V>
__global__ void squares_kernel(const float* __restrict__ x, std::int64_t num_packs, double* __restrict__ partial) {
  double mine = 0;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_packs; i += step) {
    const Pack<float, V> p = load_pack<V>(x + i * V);
    for (int j = 0; j < V; ++j) mine += static_cast<double>(p.v[j]) * static_cast<double>(p.v[j]);
  }
  const double sum = block_sum(mine);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The squares' sums of fixed blocks.
TensorView squares_of_blocks(const Context& ctx, Workspace& workspace, const ConstTensorView& x) {
  const TensorView partial = workspace.take(DType::f64, {square_sum_blocks});
  with_pack<float>(packs(x), [&]<int V>(std::integral_constant<int, V>) {
    squares_kernel<V><<<static_cast<unsigned>(square_sum_blocks), threads, 0, stream_of(ctx)>>>(
        device_data<float>(x), x.numel() / V, device_data<double>(partial));
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
  return partial;
}

}  // namespace

void adamw(const Context& ctx, const AdamWStep& step, const TensorView& p, const ConstTensorView& g,
           const TensorView& m, const TensorView& v, const TensorView& rounded) {
  if (p.numel() == 0) return;
  const auto t = static_cast<double>(step.step);
  const Constants constants = {
      .shrink = static_cast<float>(1.0 - step.learning_rate * step.weight_decay),
      .beta1 = static_cast<float>(step.beta1),
      .rest1 = static_cast<float>(1.0 - step.beta1),
      .beta2 = static_cast<float>(step.beta2),
      .rest2 = static_cast<float>(1.0 - step.beta2),
      .step_size = static_cast<float>(step.learning_rate / (1.0 - std::pow(step.beta1, t))),
      .root_correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(step.beta2, t))),
      .eps = static_cast<float>(step.eps),
      .gradient_scale = static_cast<float>(step.gradient_scale),
  };
  const bool full = all_pack(p, g, m, v) && (!rounded || reinterpret_cast<std::uintptr_t>(rounded.data()) % 8 == 0);
  with_pack<float>(full, [&]<int V>(std::integral_constant<int, V>) {
    adamw_kernel<V><<<grid_of(ceil_div(p.numel() / V, threads)), threads, 0, stream_of(ctx)>>>(
        constants, device_data<float>(p), device_data<float>(g), device_data<float>(m), device_data<float>(v),
        optional_data<bf16>(rounded), p.numel() / V);
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

double sum_of_squares(const Context& ctx, const ConstTensorView& x) {
  if (x.numel() == 0) return 0;
  Workspace workspace(ctx);
  return sum_on_host(ctx, squares_of_blocks(ctx, workspace, x));
}

void add_sum_of_squares(const Context& ctx, const ConstTensorView& x, const TensorView& total) {
  if (x.numel() == 0) return;
  Workspace workspace(ctx);
  add_sum(ctx, squares_of_blocks(ctx, workspace, x), total);
}

}  // namespace photon::cuda
