// The CUDA bodies of slot_rows.hpp: a thread a pack of elements.
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/slot_rows.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 128;

template <class T, int V>
__global__ void scatter_kernel(const T* x, std::int64_t x_stride, const std::int32_t* index, T* to,
                               std::int64_t to_stride, std::int64_t num_rows, std::int64_t width) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const std::int64_t packs_a_row = width / V;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_rows * packs_a_row; i += step) {
    const std::int64_t row = i / packs_a_row;
    const std::int64_t d = (i - row * packs_a_row) * V;
    if (index[row] >= 0) store_pack(to + index[row] * to_stride + d, load_pack<V>(x + row * x_stride + d));
  }
}

__global__ void recent_kernel(const std::int32_t* history, std::int64_t stride, const std::int32_t* slot,
                              const std::int32_t* position, std::int64_t offset, std::int32_t missing,
                              std::int32_t* tokens, std::int64_t num_rows, std::int64_t k) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= num_rows * k) return;
  const std::int64_t n = i / k;
  const std::int64_t at = position[n] + offset - k + (i - n * k);
  tokens[i] = at < 0 ? missing : history[slot[n] * stride + at];
}

template <class T, int V>
__global__ void embed_kernel(const T* table, std::int64_t table_stride, const std::int32_t* tokens, T* out,
                             std::int64_t outer, std::int64_t inner, std::int64_t num_tokens, std::int64_t k,
                             std::int64_t width) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const std::int64_t packs_a_row = width / V;
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < num_tokens * packs_a_row; i += step) {
    const std::int64_t row = i / packs_a_row;
    const std::int64_t d = (i - row * packs_a_row) * V;
    const std::int32_t token = tokens[row];
    Pack<T, V> value;
    for (int j = 0; j < V; ++j) value.v[j] = from_f32<T>(0.0F);
    if (token >= 0) value = load_pack<V>(table + token * table_stride + d);
    store_pack(out + row / k * outer + row % k * inner + d, value);
  }
}

__global__ void shift_kernel(std::int32_t* x, std::int32_t by, std::int64_t n) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < n) x[i] += by;
}

}  // namespace

void scatter_rows(const Context& ctx, const ConstTensorView& x, const ConstTensorView& index, const TensorView& to) {
  if (x.numel() == 0) return;
  const auto launch = [&]<class T>(T) {
    with_pack<T>(all_pack(x, ConstTensorView(to)), [&]<int V>(std::integral_constant<int, V>) {
      launch_dependent(scatter_kernel<T, V>, dim3(grid_of(ceil_div(x.numel() / V, threads))), threads, 0,
                       stream_of(ctx), device_data<T>(x), x.stride(0), device_data<std::int32_t>(index),
                       device_data<T>(to), to.stride(0), x.size(0), x.size(1));
    });
  };
  if (x.dtype() == DType::i32) {
    launch(std::int32_t{});
  } else {
    with_float_type(x.dtype(), launch);
  }
}

void recent_tokens(const Context& ctx, const ConstTensorView& history, const ConstTensorView& slot,
                   const ConstTensorView& position, std::int64_t offset, std::int32_t missing,
                   const TensorView& tokens) {
  if (tokens.numel() == 0) return;
  launch_dependent(recent_kernel, dim3(grid_of(ceil_div(tokens.numel(), threads))), threads, 0, stream_of(ctx),
                   device_data<std::int32_t>(history), history.stride(0), device_data<std::int32_t>(slot),
                   device_data<std::int32_t>(position), offset, missing, device_data<std::int32_t>(tokens),
                   tokens.size(0), tokens.size(1));
}

void embed_or_zero(const Context& ctx, const ConstTensorView& table, const ConstTensorView& tokens,
                   const TensorView& out) {
  if (out.numel() == 0) return;
  with_float_type(out.dtype(), [&]<class T>(T) {
    with_pack<T>(all_pack(table, ConstTensorView(out)), [&]<int V>(std::integral_constant<int, V>) {
      launch_dependent(embed_kernel<T, V>, dim3(grid_of(ceil_div(out.numel() / V, threads))), threads, 0,
                       stream_of(ctx), device_data<T>(table), table.stride(0), device_data<std::int32_t>(tokens),
                       device_data<T>(out), out.stride(0), out.stride(1), tokens.numel(), tokens.size(1),
                       table.size(1));
    });
  });
}

void shift_indices(const Context& ctx, const TensorView& x, std::int32_t by) {
  if (x.numel() == 0) return;
  launch_dependent(shift_kernel, dim3(grid_of(ceil_div(x.numel(), threads))), threads, 0, stream_of(ctx),
                   device_data<std::int32_t>(x), by, x.numel());
}

}  // namespace photon::cuda
