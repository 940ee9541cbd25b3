// The CUDA bodies of swiglu.hpp: a thread a pack of elements.
#include "kernels/cuda/common.cuh"
#include "kernels/swiglu.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;

template <class T, int V>
__global__ void forward_kernel(const T* __restrict__ gate_up, std::int64_t in_stride, T* __restrict__ out,
                               std::int64_t out_stride, std::int64_t num_rows, std::int64_t width) {
  const std::int64_t packs_a_row = width / V;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_rows * packs_a_row; i += step) {
    const std::int64_t row = i / packs_a_row;
    const std::int64_t f = (i - row * packs_a_row) * V;
    const Pack<T, V> gate = load_pack<V>(gate_up + row * in_stride + f);
    const Pack<T, V> up = load_pack<V>(gate_up + row * in_stride + width + f);
    Pack<T, V> result;
    for (int j = 0; j < V; ++j) {
      const float x = to_f32(gate.v[j]);
      result.v[j] = from_f32<T>(x / (1.0F + expf(-x)) * to_f32(up.v[j]));
    }
    store_pack(out + row * out_stride + f, result);
  }
}

// dgate_up may alias gate_up: a thread reads its elements before it writes them.
template <class T, int V>
__global__ void backward_kernel(const T* __restrict__ dout, std::int64_t dout_stride, const T* gate_up,
                                std::int64_t in_stride, T* dgate_up, std::int64_t grad_stride, std::int64_t num_rows,
                                std::int64_t width) {
  const std::int64_t packs_a_row = width / V;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_rows * packs_a_row; i += step) {
    const std::int64_t row = i / packs_a_row;
    const std::int64_t f = (i - row * packs_a_row) * V;
    const Pack<T, V> g = load_pack<V>(dout + row * dout_stride + f);
    const Pack<T, V> gate = load_pack<V>(gate_up + row * in_stride + f);
    const Pack<T, V> up = load_pack<V>(gate_up + row * in_stride + width + f);
    Pack<T, V> dgate;
    Pack<T, V> dup;
    for (int j = 0; j < V; ++j) {
      const float x = to_f32(gate.v[j]);
      const float sigmoid = 1.0F / (1.0F + expf(-x));
      const float gradient = to_f32(g.v[j]);
      dup.v[j] = from_f32<T>(gradient * x * sigmoid);
      dgate.v[j] = from_f32<T>(gradient * to_f32(up.v[j]) * sigmoid * (1.0F + x * (1.0F - sigmoid)));
    }
    store_pack(dgate_up + row * grad_stride + f, dgate);
    store_pack(dgate_up + row * grad_stride + width + f, dup);
  }
}

// The halves of a [N, 2F] tensor pack when its rows do and F is a whole number of packs.
bool halves_pack(const ConstTensorView& gate_up) {
  return packs(gate_up) && packs(gate_up.slice(1, gate_up.size(1) / 2, gate_up.size(1) / 2));
}

}  // namespace

void swiglu_forward(const Context& ctx, const ConstTensorView& gate_up, const TensorView& out) {
  if (out.numel() == 0) return;
  with_float_type(out.dtype(), [&]<class T>(T) {
    with_pack<T>(halves_pack(gate_up) && packs(out), [&]<int V>(std::integral_constant<int, V>) {
      forward_kernel<T, V><<<grid_of(ceil_div(out.numel() / V, threads)), threads, 0, stream_of(ctx)>>>(
          device_data<T>(gate_up), gate_up.stride(0), device_data<T>(out), out.stride(0), out.size(0), out.size(1));
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

void swiglu_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& gate_up,
                     const TensorView& dgate_up) {
  if (dout.numel() == 0) return;
  with_float_type(dout.dtype(), [&]<class T>(T) {
    with_pack<T>(halves_pack(gate_up) && halves_pack(dgate_up) && packs(dout),
                 [&]<int V>(std::integral_constant<int, V>) {
                   backward_kernel<T, V><<<grid_of(ceil_div(dout.numel() / V, threads)), threads, 0, stream_of(ctx)>>>(
                       device_data<T>(dout), dout.stride(0), device_data<T>(gate_up), gate_up.stride(0),
                       device_data<T>(dgate_up), dgate_up.stride(0), dout.size(0), dout.size(1));
                 });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
