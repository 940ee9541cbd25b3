// A warp an output: a lane sums every 32nd pack of 8 terms, the lanes are added as one tree. The weight's packs of
// several steps are asked for before the first is used; x stays in the first-level cache.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/gemv.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 128;
constexpr int pack = full_pack<bf16>;
constexpr int steps = 6;  // loads under way at once, a lane

template <class Out>
__global__ void __launch_bounds__(threads)
    gemv_kernel(const bf16* __restrict__ x, const bf16* __restrict__ w, std::int64_t w_stride, Out* y, int num_outputs,
                int num_terms, const Out* added) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  const int output = static_cast<int>((blockIdx.x * threads + threadIdx.x) / warp_width);
  if (output >= num_outputs) return;
  const bf16* const weights = w + output * w_stride;
  float sum = 0;
  for (int begin = lane * pack; begin < num_terms; begin += steps * warp_width * pack) {
    uint4 loaded[steps];
#pragma unroll
    for (int s = 0; s < steps; ++s) {
      const int k = begin + s * warp_width * pack;
      loaded[s] = k < num_terms ? load_once(weights + k) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int s = 0; s < steps; ++s) {
      const int k = begin + s * warp_width * pack;
      if (k >= num_terms) break;
      float weight[pack];
      float row[pack];
      unpack(loaded[s], weight);
      unpack(__ldg(reinterpret_cast<const uint4*>(x + k)), row);
#pragma unroll
      for (int e = 0; e < pack; ++e) sum = fmaf(row[e], weight[e], sum);
    }
  }
  sum = warp_sum(sum);
  if (lane == 0) y[output] = from_f32<Out>(added != nullptr ? to_f32(added[output]) + sum : sum);
}

}  // namespace

bool gemv_fits(const ConstTensorView& x, const ConstTensorView& w, const TensorView& y) {
  return x.dtype() == DType::bf16 && w.dtype() == DType::bf16 && x.size(0) == 1 && w.size(0) > 0 && w.size(1) > 0 &&
         w.numel() < std::numeric_limits<std::int32_t>::max() &&
         (y.dtype() == DType::bf16 || y.dtype() == DType::f32) && all_pack(x, w);
}

void gemv_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y,
                  const ConstTensorView& added) {
  PHOTON_EXPECT(gemv_fits(x, w, y), "a product of {} and {} as one row", x.shape().str(), w.shape().str());
  with_float_type(y.dtype(), [&]<class Out>(Out) {
    gemv_kernel<Out><<<static_cast<unsigned>(ceil_div(w.size(0) * warp_width, threads)), threads, 0, stream_of(ctx)>>>(
        device_data<bf16>(x), device_data<bf16>(w), w.stride(0), device_data<Out>(y), static_cast<int>(w.size(0)),
        static_cast<int>(w.size(1)), optional_data<Out>(added));
    PHOTON_CUDA_CHECK(cudaGetLastError());
  });
}

}  // namespace photon::cuda
