// The CUDA bodies of swiglu.hpp: a thread a pack of elements.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/largest.cuh"
#include "kernels/swiglu.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

// 1 / (1 + exp(-x)); results that are rounded to bf16 do with the fast exponential.
template <class T>
__device__ inline float sigmoid(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return 1.0F / (1.0F + expf(-x));
  } else {
    return __fdividef(1.0F, 1.0F + __expf(-x));
  }
}

template <class T, int V>
__global__ void __launch_bounds__(threads)
    forward_kernel(const T* __restrict__ gate_up, std::int64_t in_stride, T* __restrict__ out, std::int64_t out_stride,
                   unsigned* largest, unsigned num_packs, unsigned width) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  unsigned most = 0;
  if (i < num_packs) {
    const PackPlace at = pack_place(i, width / V);
    gate_up += at.row * in_stride + at.pack * V;
    const Pack<T, V> gate = load_pack<V>(gate_up);
    const Pack<T, V> up = load_pack<V>(gate_up + width);
    Pack<T, V> result;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float x = to_f32(gate.v[j]);
      result.v[j] = from_f32<T>(x * sigmoid<T>(x) * to_f32(up.v[j]));
      most = larger(most, result.v[j]);
    }
    store_pack(out + at.row * out_stride + at.pack * V, result);
  }
  if (largest != nullptr) raise_by_block(largest, most);
}

// dgate_up may alias gate_up, and out may alias dout: a thread reads its elements before it writes them. out may be
// null.
template <class T, int V>
__global__ void __launch_bounds__(threads)
    backward_kernel(const T* dout, std::int64_t dout_stride, const T* gate_up, std::int64_t in_stride, T* dgate_up,
                    std::int64_t grad_stride, T* out, std::int64_t out_stride, unsigned* largest, unsigned num_packs,
                    unsigned width) {
  const unsigned i = blockIdx.x * threads + threadIdx.x;
  unsigned most = 0;
  if (i < num_packs) {
    const PackPlace at = pack_place(i, width / V);
    gate_up += at.row * in_stride + at.pack * V;
    dgate_up += at.row * grad_stride + at.pack * V;
    const Pack<T, V> g = load_pack<V>(dout + at.row * dout_stride + at.pack * V);
    const Pack<T, V> gate = load_pack<V>(gate_up);
    const Pack<T, V> up = load_pack<V>(gate_up + width);
    Pack<T, V> dgate;
    Pack<T, V> dup;
    Pack<T, V> result;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float x = to_f32(gate.v[j]);
      const float s = sigmoid<T>(x);
      const float gradient = to_f32(g.v[j]);
      const float activation = x * s;
      dup.v[j] = from_f32<T>(gradient * activation);
      dgate.v[j] = from_f32<T>(gradient * to_f32(up.v[j]) * s * (1.0F + x * (1.0F - s)));
      result.v[j] = from_f32<T>(activation * to_f32(up.v[j]));
      most = larger(larger(most, dup.v[j]), dgate.v[j]);
    }
    store_pack(dgate_up, dgate);
    store_pack(dgate_up + width, dup);
    if (out != nullptr) store_pack(out + at.row * out_stride + at.pack * V, result);
  }
  if (largest != nullptr) raise_by_block(largest, most);
}

// The halves of a [N, 2F] tensor pack when its rows do and F is a whole number of packs.
bool halves_pack(const ConstTensorView& gate_up) {
  return packs(gate_up) && packs(gate_up.slice(1, gate_up.size(1) / 2, gate_up.size(1) / 2));
}

}  // namespace

void swiglu_forward(const Context& ctx, const ConstTensorView& gate_up, const TensorView& out,
                    const TensorView& largest) {
  unsigned* const found = cleared_largest(ctx, largest);
  if (out.numel() == 0) return;
  with_float_type(out.dtype(), [&]<class T>(T) {
    with_pack<T>(halves_pack(gate_up) && packs(out), [&]<int V>(std::integral_constant<int, V>) {
      const unsigned num_packs = num_packs_of(out.numel(), V);
      forward_kernel<T, V><<<static_cast<unsigned>(ceil_div(num_packs, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<T>(gate_up), gate_up.stride(0), device_data<T>(out), out.stride(0), found, num_packs,
          static_cast<unsigned>(out.size(1)));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void swiglu_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& gate_up,
                     const TensorView& dgate_up, const TensorView& out, const TensorView& largest) {
  unsigned* const found = cleared_largest(ctx, largest);
  if (dout.numel() == 0) return;
  with_float_type(dout.dtype(), [&]<class T>(T) {
    const bool full = halves_pack(gate_up) && halves_pack(dgate_up) && all_pack(dout, ConstTensorView(out));
    with_pack<T>(full, [&]<int V>(std::integral_constant<int, V>) {
      const unsigned num_packs = num_packs_of(dout.numel(), V);
      backward_kernel<T, V><<<static_cast<unsigned>(ceil_div(num_packs, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<T>(dout), dout.stride(0), device_data<T>(gate_up), gate_up.stride(0), device_data<T>(dgate_up),
          dgate_up.stride(0), optional_data<T>(out), out ? out.stride(0) : 0, found, num_packs,
          static_cast<unsigned>(dout.size(1)));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
