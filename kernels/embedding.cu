// The CUDA bodies of embedding.hpp. Backward sorts the positions by token, then a block walks the positions of one
// token.
#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/embedding.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 128;

template <class T, int V>
__global__ void forward_kernel(const T* table, std::int64_t table_stride, const std::int32_t* tokens, T* out,
                               std::int64_t out_stride, std::int64_t num_tokens, std::int64_t width) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const std::int64_t packs_a_row = width / V;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_tokens * packs_a_row; i += step) {
    const std::int64_t row = i / packs_a_row;
    const std::int64_t d = (i - row * packs_a_row) * V;
    store_pack(out + row * out_stride + d, load_pack<V>(table + tokens[row] * table_stride + d));
  }
}

__global__ void count_up_kernel(std::int32_t* __restrict__ index, std::int64_t n) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < n) index[i] = static_cast<std::int32_t>(i);
}

// The block at the first of a token's sorted positions sums the gradients of all of them; the sort was stable, so they
// come in ascending order. Several rows are under way at a time.
template <class T, class W, int V>
__global__ void backward_kernel(const T* __restrict__ dout, std::int64_t dout_stride,
                                const std::int32_t* __restrict__ token, const std::int32_t* __restrict__ index,
                                W* __restrict__ dtable, std::int64_t table_stride, std::int64_t num_tokens, int width) {
  constexpr int rows_at_once = 4;
  const std::int64_t first = blockIdx.x;
  const std::int32_t mine = token[first];
  if (first > 0 && token[first - 1] == mine) return;
  for (int d = static_cast<int>(threadIdx.x) * V; d < width; d += static_cast<int>(blockDim.x) * V) {
    W* const target = dtable + mine * table_stride + d;
    Pack<W, V> total = load_pack<V>(target);
    float sum[V];
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] = to_f32(total.v[j]);
    bool more = true;
    for (std::int64_t begin = first; more; begin += rows_at_once) {
      Pack<T, V> rows[rows_at_once];
      bool inside[rows_at_once];
#pragma unroll
      for (int r = 0; r < rows_at_once; ++r) {
        inside[r] = begin + r < num_tokens && token[begin + r] == mine;
        if (inside[r]) rows[r] = load_pack<V>(dout + index[begin + r] * dout_stride + d);
      }
#pragma unroll
      for (int r = 0; r < rows_at_once; ++r) {
        if (!inside[r]) continue;
#pragma unroll
        for (int j = 0; j < V; ++j) sum[j] += to_f32(rows[r].v[j]);
      }
      more = inside[rows_at_once - 1];
    }
#pragma unroll
    for (int j = 0; j < V; ++j) total.v[j] = from_f32<W>(sum[j]);
    store_pack(target, total);
  }
}

}  // namespace

void embedding_forward(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                       const TensorView& out) {
  if (out.numel() == 0) return;
  with_float_type(out.dtype(), [&]<class T>(T) {
    with_pack<T>(packs(table) && packs(out), [&]<int V>(std::integral_constant<int, V>) {
      launch_dependent(forward_kernel<T, V>, dim3(grid_of(ceil_div(out.numel() / V, threads))), threads, 0,
                       stream_of(ctx), device_data<T>(table), table.stride(0), device_data<std::int32_t>(tokens),
                       device_data<T>(out), out.stride(0), out.size(0), out.size(1));
    });
  });
}

void embedding_backward(const Context& ctx, const ConstTensorView& dout, const ConstTensorView& tokens,
                        const TensorView& dtable) {
  const std::int64_t n = dout.size(0);
  if (dout.numel() == 0) return;
  PHOTON_EXPECT(n <= std::numeric_limits<std::int32_t>::max(), "the embedding's gradient of {} tokens in one call", n);
  Workspace workspace(ctx);
  auto* const index = device_data<std::int32_t>(workspace.take(DType::i32, {n}));
  auto* const sorted_index = device_data<std::int32_t>(workspace.take(DType::i32, {n}));
  auto* const sorted_token = device_data<std::int32_t>(workspace.take(DType::i32, {n}));
  const std::int32_t* const token = device_data<std::int32_t>(tokens);
  const auto count = static_cast<int>(n);
  count_up_kernel<<<grid_of(ceil_div(n, threads), std::numeric_limits<int>::max()), threads, 0, stream_of(ctx)>>>(index,
                                                                                                                  n);
  PHOTON_CUDA_CHECK(cudaGetLastError());
  int bits = 1;  // of the largest token
  while ((std::int64_t{1} << bits) < dtable.size(0)) ++bits;
  std::size_t sort_bytes = 0;
  PHOTON_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, token, sorted_token, index, sorted_index,
                                                    count, 0, bits, stream_of(ctx)));
  const TensorView temporary = workspace.take(DType::u8, {static_cast<std::int64_t>(sort_bytes)});
  PHOTON_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(temporary.data(), sort_bytes, token, sorted_token, index,
                                                    sorted_index, count, 0, bits, stream_of(ctx)));
  with_float_type(dout.dtype(), [&]<class T>(T) {
    with_float_type(dtable.dtype(), [&]<class W>(W) {
      with_pack<T>(packs(dout) && packs(dtable), [&]<int V>(std::integral_constant<int, V>) {
        constexpr std::int64_t most_threads = 256;
        const std::int64_t packs_a_row = ceil_div(dout.size(1), V);
        const auto block =
            static_cast<unsigned>(std::min(most_threads, ceil_div(packs_a_row, warp_width) * warp_width));
        backward_kernel<T, W, V><<<static_cast<unsigned>(n), block, 0, stream_of(ctx)>>>(
            device_data<T>(dout), dout.stride(0), sorted_token, sorted_index, device_data<W>(dtable), dtable.stride(0),
            n, static_cast<int>(dout.size(1)));
      });
    });
  });
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

}  // namespace photon::cuda
