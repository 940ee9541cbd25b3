// The CUDA bodies of few_rows.hpp. A block asks for all of its weight rows at once, by the copy engine into shared
// memory, before it waits for the kernel in front: memory streams on while products end and begin.
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/few_rows.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 128;
constexpr int num_warps = threads / warp_width;
constexpr int pack = 8;                  // bf16 elements of 16 bytes
constexpr int step = pack * warp_width;  // elements of a row that a warp reads at once
constexpr std::int64_t barrier_bytes = 128;

enum class Around { norm, norm_swiglu, residual };

struct Few {
  const bf16* x;
  std::int64_t x_stride;
  const float* norm;
  float eps;
  const bf16* w;
  const bf16* residual;
  std::int64_t residual_stride;
  void* y;
  std::int64_t y_stride;
  int num_rows;
  int width;    // K
  int outputs;  // weight rows, or F for SwiGLU
};

// A warp has a pair of weight rows, or one where rows are long.
template <Around A>
inline constexpr int rows_a_warp = A == Around::residual ? 1 : 2;
template <Around A>
inline constexpr int rows_a_block = num_warps* rows_a_warp<A>;

__device__ inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
#if __CUDA_ARCH__ >= 900
__device__ inline void init_barrier(unsigned barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void expect_bytes(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void fetch(const bf16* to, const bf16* from, unsigned bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
__device__ inline void wait_for_bytes(unsigned barrier) {
  unsigned done = 0;
  while (done == 0) {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(barrier)
                 : "memory");
  }
}
#else  // few_rows_apply() says no on older devices
__device__ inline void init_barrier(unsigned) {}
__device__ inline void expect_bytes(unsigned, unsigned) {}
__device__ inline void fetch(const bf16*, const bf16*, unsigned, unsigned) {}
__device__ inline void wait_for_bytes(unsigned) {}
#endif

__device__ inline float2 pair_of(unsigned bits) {
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000U)};
}

// Rows of x, normalised where asked for, into shared memory [M][width] bf16; missing rows are zero.
template <int M, bool Normalised>
__device__ void stage_rows(const Few& f, bf16* __restrict__ staged) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  if constexpr (!Normalised) {
    for (int i = static_cast<int>(threadIdx.x) * pack; i < M * f.width; i += threads * pack) {
      const int r = i / f.width;
      uint4 value{0, 0, 0, 0};
      if (r < f.num_rows) value = *reinterpret_cast<const uint4*>(f.x + r * f.x_stride + (i - r * f.width));
      *reinterpret_cast<uint4*>(staged + i) = value;
    }
  } else {
    for (int r = warp; r < M; r += num_warps) {
      bf16* const to = staged + r * f.width;
      const bf16* const from = f.x + r * f.x_stride;
      float squares = 0;
      if (r < f.num_rows) {
        for (int d = lane * pack; d < f.width; d += step) {
          const Pack<bf16, pack> p = load_pack<pack>(from + d);
          store_pack(to + d, p);
#pragma unroll
          for (int i = 0; i < pack; ++i) squares += to_f32(p.v[i]) * to_f32(p.v[i]);
        }
      }
      const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(f.width) + f.eps);
      for (int d = lane * pack; d < f.width; d += step) {  // each lane reads back what it wrote itself
        Pack<bf16, pack> p;
        if (r < f.num_rows) p = load_pack<pack>(to + d);
#pragma unroll
        for (int i = 0; i < pack; ++i)
          p.v[i] = from_f32<bf16>(r < f.num_rows ? to_f32(p.v[i]) * scale * f.norm[d + i] : 0.0F);
        store_pack(to + d, p);
      }
    }
  }
}

template <int M, Around A, class T>
__global__ void __launch_bounds__(threads) few_kernel(const Few f) {
  extern __shared__ __align__(128) unsigned char memory[];
  constexpr int own = rows_a_warp<A>;
  constexpr int outputs = A == Around::norm_swiglu ? num_warps : rows_a_block<A>;  // of the block
  bf16* const staged = reinterpret_cast<bf16*>(memory + barrier_bytes);
  bf16* const weights = staged + M * f.width;
  const unsigned barrier = shared_address(memory);
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int warp = static_cast<int>(threadIdx.x) / warp_width;
  const int begin = static_cast<int>(blockIdx.x) * outputs;
  const int count = min(outputs, f.outputs - begin);
  let_next_kernel_start();
  if (threadIdx.x == 0) {
    init_barrier(barrier);
    const unsigned bytes = static_cast<unsigned>(count * f.width) * static_cast<unsigned>(sizeof(bf16));
    const std::int64_t first = static_cast<std::int64_t>(begin) * f.width;
    if constexpr (A == Around::norm_swiglu) {  // the gate's rows, then up's
      expect_bytes(barrier, 2 * bytes);
      fetch(weights, f.w + first, bytes, barrier);
      fetch(weights + outputs * f.width, f.w + static_cast<std::int64_t>(f.outputs) * f.width + first, bytes, barrier);
    } else {
      expect_bytes(barrier, bytes);
      fetch(weights, f.w + first, bytes, barrier);
    }
  }
  wait_for_earlier_kernels();
  stage_rows<M, A != Around::residual>(f, staged);
  __syncthreads();  // the rows are there, and the barrier is known to all
  wait_for_bytes(barrier);
  const bf16* w[own];
#pragma unroll
  for (int i = 0; i < own; ++i) {
    const int row = A == Around::norm_swiglu ? warp + i * outputs : warp * own + i;
    w[i] = weights + row * f.width;
  }
  float sum[own][M];
#pragma unroll
  for (int i = 0; i < own; ++i) {
#pragma unroll
    for (int r = 0; r < M; ++r) sum[i][r] = 0;
  }
#pragma unroll 2
  for (int d = lane * pack; d < f.width; d += step) {
    unsigned ws[own][4];
#pragma unroll
    for (int i = 0; i < own; ++i) {
      const uint4 v = *reinterpret_cast<const uint4*>(w[i] + d);
      ws[i][0] = v.x;
      ws[i][1] = v.y;
      ws[i][2] = v.z;
      ws[i][3] = v.w;
    }
#pragma unroll
    for (int r = 0; r < M; ++r) {
      const uint4 v = *reinterpret_cast<const uint4*>(staged + r * f.width + d);
      const unsigned xs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 x = pair_of(xs[j]);
#pragma unroll
        for (int i = 0; i < own; ++i) {
          const float2 p = pair_of(ws[i][j]);
          sum[i][r] += x.x * p.x;
          sum[i][r] += x.y * p.y;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < own; ++i) {
#pragma unroll
    for (int r = 0; r < M; ++r) sum[i][r] = warp_sum(sum[i][r]);
  }
#pragma unroll
  for (int r = 0; r < M; ++r) {
    if (lane != r || r >= f.num_rows) continue;
    T* const to = static_cast<T*>(f.y) + r * f.y_stride + begin;
    if constexpr (A == Around::norm_swiglu) {
      if (warp < count) to[warp] = from_f32<T>(sum[0][r] / (1.0F + __expf(-sum[0][r])) * sum[1][r]);
    } else {
#pragma unroll
      for (int i = 0; i < own; ++i) {
        const int o = warp * own + i;
        if (o >= count) continue;
        float x = sum[i][r];
        if constexpr (A == Around::residual) {
          if (f.residual != nullptr) x += to_f32(f.residual[r * f.residual_stride + begin + o]);
        }
        to[o] = from_f32<T>(x);
      }
    }
  }
}

// One row a block.
__global__ void __launch_bounds__(threads) norm_kernel(const Few f) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const bf16* const x = f.x + blockIdx.x * f.x_stride;
  bf16* const y = static_cast<bf16*>(f.y) + blockIdx.x * f.y_stride;
  float squares = 0;
  for (int d = static_cast<int>(threadIdx.x) * pack; d < f.width; d += threads * pack) {
    const Pack<bf16, pack> p = load_pack<pack>(x + d);
#pragma unroll
    for (int i = 0; i < pack; ++i) squares += to_f32(p.v[i]) * to_f32(p.v[i]);
  }
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(f.width) + f.eps);
  for (int d = static_cast<int>(threadIdx.x) * pack; d < f.width; d += threads * pack) {
    Pack<bf16, pack> p = load_pack<pack>(x + d);
#pragma unroll
    for (int i = 0; i < pack; ++i) p.v[i] = from_f32<bf16>(to_f32(p.v[i]) * scale * f.norm[d + i]);
    store_pack(y + d, p);
  }
}

template <Around A>
void launch(const Context& ctx, const Few& f, DType dtype) {
  if (f.num_rows == 0) return;
  const auto with_rows = [&]<int M>(std::integral_constant<int, M>) {
    const std::int64_t shared =
        barrier_bytes + (M + rows_a_block<A>)*std::int64_t{f.width} * static_cast<std::int64_t>(sizeof(bf16));
    const int outputs = A == Around::norm_swiglu ? num_warps : rows_a_block<A>;
    const dim3 grid(static_cast<unsigned>(ceil_div(f.outputs, outputs)));
    with_float_type(dtype, [&]<class T>(T) {
      allow_shared_memory(few_kernel<M, A, T>, shared);
      launch_dependent(few_kernel<M, A, T>, grid, threads, shared, stream_of(ctx), f);
    });
  };
  if (f.num_rows == 1) return with_rows(std::integral_constant<int, 1>{});
  if (f.num_rows == 2) return with_rows(std::integral_constant<int, 2>{});
  if (f.num_rows <= 4) return with_rows(std::integral_constant<int, 4>{});
  with_rows(std::integral_constant<int, 8>{});
}

Few few_of(const ConstTensorView& x, const ConstTensorView& w, const TensorView& y) {
  PHOTON_EXPECT(packs(x) && packs(w), "rows of few_rows that do not begin at 16 bytes");
  Few f{};
  f.x = device_data<bf16>(x);
  f.x_stride = x.stride(0);
  f.w = device_data<bf16>(w);
  f.y = y.data();
  f.y_stride = y.stride(0);
  f.num_rows = static_cast<int>(x.size(0));
  f.width = static_cast<int>(x.size(1));
  f.outputs = static_cast<int>(w.size(0));
  return f;
}

}  // namespace

void few_norm_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& y) {
  Few f = few_of(x, w, y);
  f.norm = device_data<float>(norm);
  f.eps = static_cast<float>(eps);
  launch<Around::norm>(ctx, f, y.dtype());
}

void few_norm_swiglu(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
                     const ConstTensorView& w, const TensorView& act) {
  Few f = few_of(x, w, act);
  f.norm = device_data<float>(norm);
  f.eps = static_cast<float>(eps);
  f.outputs = static_cast<int>(w.size(0) / 2);
  launch<Around::norm_swiglu>(ctx, f, act.dtype());
}

void few_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const ConstTensorView& residual,
                const TensorView& y) {
  Few f = few_of(x, w, y);
  f.residual = optional_data<bf16>(residual);
  f.residual_stride = residual ? residual.stride(0) : 0;
  launch<Around::residual>(ctx, f, y.dtype());
}

void few_norm(const Context& ctx, const ConstTensorView& x, const ConstTensorView& norm, double eps,
              const TensorView& y) {
  if (x.numel() == 0) return;
  PHOTON_EXPECT(packs(x) && packs(y), "rows of few_norm that do not begin at 16 bytes");
  Few f{};
  f.x = device_data<bf16>(x);
  f.x_stride = x.stride(0);
  f.norm = device_data<float>(norm);
  f.eps = static_cast<float>(eps);
  f.y = device_data<bf16>(y);
  f.y_stride = y.stride(0);
  f.width = static_cast<int>(x.size(1));
  launch_dependent(norm_kernel, dim3(static_cast<unsigned>(x.size(0))), threads, 0, stream_of(ctx), f);
}

bool few_rows_possible() {
  return device_has_dependent_launch();
}

}  // namespace photon::cuda
