// The CUDA bodies of elementwise.hpp.
#include "kernels/cuda/common.cuh"
#include "kernels/elementwise.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

// x holds num_packs packs and fewer than V elements behind them.
template <class T, int V>
__global__ void fill_kernel(T* __restrict__ x, std::int64_t num_packs, int rest, float value) {
  Pack<T, V> pack;
  for (int j = 0; j < V; ++j) pack.v[j] = from_f32<T>(value);
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  const std::int64_t first = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  for (std::int64_t i = first; i < num_packs; i += step) store_pack(x + i * V, pack);
  if (first < rest) x[num_packs * V + first] = pack.v[0];
}

__global__ void scale_kernel(float* __restrict__ x, std::int64_t n, float factor) {
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < n; i += step) x[i] *= factor;
}

// Sizes (the last in packs) and strides of a view whose missing leading dims have size 1.
struct Walk {
  unsigned size[max_rank];
  std::int64_t from[max_rank];
  std::int64_t to[max_rank];
};

template <class From, class To, int V>
__global__ void copy_kernel(const From* from, To* to, Walk walk, unsigned num_packs, bool accumulate) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  if (i >= num_packs) return;
  unsigned rest = i;
  for (int dim = max_rank - 1; dim >= 0; --dim) {
    if (walk.size[dim] == 1) continue;
    const unsigned outer = rest / walk.size[dim];
    const unsigned at = rest - outer * walk.size[dim];
    from += at * walk.from[dim];
    to += at * walk.to[dim];
    rest = outer;
  }
  const Pack<From, V> p = load_pack<V>(from);
  Pack<To, V> result;
  if (accumulate) result = load_pack<V>(to);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const float x = to_f32(p.v[j]);
    result.v[j] = from_f32<To>(accumulate ? to_f32(result.v[j]) + x : x);
  }
  store_pack(to, result);
}

// Dims that lie evenly in both views are walked as one.
Walk walk_of(const ConstTensorView& from, const ConstTensorView& to, int pack) {
  Walk walk{};
  std::fill_n(walk.size, max_rank, 1U);
  int dim = max_rank - 1;
  std::int64_t size = 1;
  const auto put = [&](int source) {
    walk.size[dim] = static_cast<unsigned>(dim == max_rank - 1 ? size / pack : size);
    walk.from[dim] = dim == max_rank - 1 ? pack : from.stride(source);
    walk.to[dim] = dim == max_rank - 1 ? pack : to.stride(source);
    --dim;
  };
  int inner = from.rank() - 1;  // the last of the dims that are walked as one
  for (int source = from.rank() - 1; source >= 0; --source) {
    const bool even = from.stride(source) == size * from.stride(inner) && to.stride(source) == size * to.stride(inner);
    if (!even) {
      put(inner);
      inner = source;
      size = 1;
    }
    size *= from.size(source);
  }
  put(inner);
  return walk;
}

}  // namespace

void fill(const Context& ctx, const TensorView& x, float value) {
  if (x.numel() == 0) return;
  with_float_type(x.dtype(), [&]<class T>(T) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(x.data()) % 16 == 0;
    with_pack<T>(aligned, [&]<int V>(std::integral_constant<int, V>) {
      const std::int64_t num_packs = x.numel() / V;
      fill_kernel<T, V><<<grid_of(ceil_div(num_packs, threads), 1 << 13), threads, 0, stream_of(ctx)>>>(
          device_data<T>(x), num_packs, static_cast<int>(x.numel() - num_packs * V), value);
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void copy_elements(const Context& ctx, const ConstTensorView& from, const TensorView& to, Write write) {
  const std::int64_t n = from.numel();
  if (n == 0) return;
  with_float_type(from.dtype(), [&]<class From>(From) {
    with_float_type(to.dtype(), [&]<class To>(To) {
      const auto launch = [&]<int V>(std::integral_constant<int, V>) {
        const unsigned num_packs = num_packs_of(n, V);
        copy_kernel<From, To, V><<<static_cast<unsigned>(ceil_div(num_packs, threads)), threads, 0, stream_of(ctx)>>>(
            device_data<From>(from), device_data<To>(to), walk_of(from, to, V), num_packs, write == Write::accumulate);
      };
      if (packs(from) && packs(to)) {
        launch(std::integral_constant<int, std::max(full_pack<From>, full_pack<To>)>{});
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
