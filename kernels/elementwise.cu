// The CUDA bodies of elementwise.hpp.
#include "kernels/cuda/common.cuh"
#include "kernels/elementwise.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void fill_kernel(T* __restrict__ x, std::int64_t n, float value) {
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < n; i += step) x[i] = from_f32<T>(value);
}

__global__ void scale_kernel(float* __restrict__ x, std::int64_t n, float factor) {
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < n; i += step) x[i] *= factor;
}

// Sizes and strides of a view whose missing leading dims have size 1.
struct Walk {
  std::int64_t size[max_rank];
  std::int64_t from[max_rank];
  std::int64_t to[max_rank];
};

template <class From, class To, int V>
__global__ void copy_kernel(const From* from, To* to, Walk walk, std::int64_t num_packs, bool accumulate) {
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_packs; i += step) {
    std::int64_t rest = i * V;
    std::int64_t source = 0;
    std::int64_t target = 0;
    for (int dim = max_rank - 1; dim >= 0; --dim) {
      const std::int64_t outer = rest / walk.size[dim];
      const std::int64_t at = rest - outer * walk.size[dim];
      source += at * walk.from[dim];
      target += at * walk.to[dim];
      rest = outer;
    }
    const Pack<From, V> p = load_pack<V>(from + source);
    Pack<To, V> result;
    if (accumulate) result = load_pack<V>(to + target);
    for (int j = 0; j < V; ++j) {
      const float x = to_f32(p.v[j]);
      result.v[j] = from_f32<To>(accumulate ? to_f32(result.v[j]) + x : x);
    }
    store_pack(to + target, result);
  }
}

Walk walk_of(const ConstTensorView& from, const ConstTensorView& to) {
  Walk walk{};
  const bool flat = from.contiguous() && to.contiguous();
  for (int dim = 0; dim < max_rank; ++dim) {
    walk.size[dim] = 1;
    const int source = dim - (max_rank - from.rank());
    if (flat || source < 0) continue;
    walk.size[dim] = from.size(source);
    walk.from[dim] = from.stride(source);
    walk.to[dim] = to.stride(source);
  }
  if (flat) {
    walk.size[max_rank - 1] = from.numel();
    walk.from[max_rank - 1] = 1;
    walk.to[max_rank - 1] = 1;
  }
  return walk;
}

}  // namespace

void fill(const Context& ctx, const TensorView& x, float value) {
  if (x.numel() == 0) return;
  with_float_type(x.dtype(), [&]<class T>(T) {
    fill_kernel<<<grid_of(ceil_div(x.numel(), threads)), threads, 0, stream_of(ctx)>>>(device_data<T>(x), x.numel(),
                                                                                       value);
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void copy_elements(const Context& ctx, const ConstTensorView& from, const TensorView& to, Write write) {
  const std::int64_t n = from.numel();
  if (n == 0) return;
  const Walk walk = walk_of(from, to);
  with_float_type(from.dtype(), [&]<class From>(From) {
    with_float_type(to.dtype(), [&]<class To>(To) {
      // Packs of 4 f32 fit both types: 16 and 8 bytes, or less.
      const bool full = packs(from) && packs(to);
      const auto launch = [&]<int V>(std::integral_constant<int, V>) {
        copy_kernel<From, To, V><<<grid_of(ceil_div(n / V, threads)), threads, 0, stream_of(ctx)>>>(
            device_data<From>(from), device_data<To>(to), walk, n / V, write == Write::accumulate);
      };
      if (full) {
        launch(std::integral_constant<int, 4>{});
      } else {
        launch(std::integral_constant<int, 1>{});
      }
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void scale(const Context& ctx, const TensorView& x, float factor) {
  if (x.numel() == 0) return;
  scale_kernel<<<grid_of(ceil_div(x.numel(), threads)), threads, 0, stream_of(ctx)>>>(device_data<float>(x), x.numel(),
                                                                                      factor);
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
