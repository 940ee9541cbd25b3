// The CUDA bodies of few_rows.hpp.
#include "kernels/cuda/few_rows.cuh"
#include "kernels/few_rows.hpp"

namespace photon::cuda {
namespace {

using namespace few;
static_assert(most_few_rows == columns);

template <int M, Around A, class T, int Warps>
__global__ void __launch_bounds__(Warps* warp_width) few_kernel(const Few f) {
#if __CUDA_ARCH__ >= 900  // few_rows_apply() says no on older devices
  StagedRows<M, A != Around::residual, Warps> source;
  multiply<M, A, T, Warps>(f, source);
#endif
}

constexpr int norm_threads = 256;

// One row a block; a thread holds its elements and, from before the kernel in front has ended, their weights.
__global__ void __launch_bounds__(norm_threads) norm_kernel(const Few f) {
  constexpr int rounds = most_width / pack / norm_threads;
  let_next_kernel_start();
  Pack<float, pack> factor[rounds];
#pragma unroll
  for (int i = 0; i < rounds; ++i) {
    const int d = (i * norm_threads + static_cast<int>(threadIdx.x)) * pack;
    if (d < f.width) factor[i] = load_pack<pack>(f.norm + d);
  }
  wait_for_earlier_kernels();
  const bf16* const x = f.x + blockIdx.x * f.x_stride;
  bf16* const y = static_cast<bf16*>(f.y) + blockIdx.x * f.y_stride;
  Pack<bf16, pack> held[rounds];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < rounds; ++i) {
    const int d = (i * norm_threads + static_cast<int>(threadIdx.x)) * pack;
    if (d < f.width) held[i] = load_pack<pack>(x + d);
  }
#pragma unroll
  for (int i = 0; i < rounds; ++i) {
    const int d = (i * norm_threads + static_cast<int>(threadIdx.x)) * pack;
    if (d >= f.width) continue;
#pragma unroll
    for (int e = 0; e < pack; ++e) squares += to_f32(held[i].v[e]) * to_f32(held[i].v[e]);
  }
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(f.width) + f.eps);
#pragma unroll
  for (int i = 0; i < rounds; ++i) {
    const int d = (i * norm_threads + static_cast<int>(threadIdx.x)) * pack;
    if (d >= f.width) continue;
#pragma unroll
    for (int e = 0; e < pack; ++e) held[i].v[e] = from_f32<bf16>(to_f32(held[i].v[e]) * scale * factor[i].v[e]);
    store_pack(y + d, held[i]);
  }
}

template <Around A>
void launch_few(const Context& ctx, const Few& f, DType dtype) {
  if (f.num_rows == 0) return;
  const auto with_rows = [&]<int M, int Warps>(std::integral_constant<int, M>, std::integral_constant<int, Warps>) {
    if constexpr (A == Around::residual) {
      with_float_type(dtype, [&]<class T>(T) { launch<A, Warps>(ctx, few_kernel<M, A, T, Warps>, f); });
    } else {
      PHOTON_EXPECT(dtype == DType::bf16, "few rows, normalised, into {}", name_of(dtype));
      launch<A, Warps>(ctx, few_kernel<M, A, bf16, Warps>, f);
    }
  };
  const auto with_warps = [&]<int Warps>(std::integral_constant<int, Warps> warps) {
    if (f.num_rows == 1) return with_rows(std::integral_constant<int, 1>{}, warps);
    if (f.num_rows <= 4) return with_rows(std::integral_constant<int, 4>{}, warps);
    with_rows(std::integral_constant<int, columns>{}, warps);
  };
  if (f.width <= long_rows) {
    with_warps(std::integral_constant<int, 4>{});
  } else {
    with_warps(std::integral_constant<int, 8>{});
  }
}

}  // namespace

void few_norm_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& y) {
  Few f = few_of(x, w, y);
  f.norm = device_data<float>(norm);
  f.eps = static_cast<float>(eps);
  launch_few<Around::norm>(ctx, f, y.dtype());
}

void few_norm_swiglu(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& act) {
  Few f = few_of(x, w, act);
  f.norm = device_data<float>(norm);
  f.eps = static_cast<float>(eps);
  f.outputs = static_cast<int>(w.size(0) / 2);
  launch_few<Around::norm_swiglu>(ctx, f, act.dtype());
}

void few_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const ConstTensorView& residual,
                const TensorView& y) {
  Few f = few_of(x, w, y);
  f.residual = optional_data<bf16>(residual);
  f.residual_stride = residual ? residual.stride(0) : 0;
  launch_few<Around::residual>(ctx, f, y.dtype());
}

void few_norm(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
              const TensorView& y) {
  if (x.numel() == 0) return;
  PHOTON_EXPECT(packs(x) && packs(y) && x.size(1) <= most_width, "few_norm of rows of {}", x.shape().str());
  Few f{};
  f.x = device_data<bf16>(x);
  f.x_stride = x.stride(0);
  f.norm = device_data<float>(norm);
  f.eps = static_cast<float>(eps);
  f.y = device_data<bf16>(y);
  f.y_stride = y.stride(0);
  f.width = static_cast<int>(x.size(1));
  launch_dependent(norm_kernel, dim3(static_cast<unsigned>(x.size(0))), norm_threads, 0, stream_of(ctx), f);
}

bool few_rows_possible() {
  return device_has_dependent_launch();
}

}  // namespace photon::cuda
