// The CUDA bodies of quantize.hpp. A tile of 128 x 128 elements is read once; its transpose goes through shared memory.
#include <cuda_fp8.h>

#include "kernels/cuda/common.cuh"
#include "kernels/quantize.hpp"

namespace photon::cuda {
namespace {

constexpr int threads = 256;
constexpr int tile = 128;
constexpr int packs_a_row = tile / 8;
constexpr int rows_a_pass = threads / packs_a_row;
constexpr int passes = tile / rows_a_pass;
constexpr int most_pass = 16;  // rows of 16 bytes that a thread of largest_kernel has under way

struct Matrix {
  const bf16* data;
  std::int64_t stride;
  unsigned rows;
  unsigned columns;
};

// The larger of the absolute values of each half; as unsigned integers, so that NaN exceeds infinity and both stay.
__device__ inline unsigned larger_halves(unsigned so_far, unsigned x) {
  return __vmaxu2(so_far, x & 0x7fff7fffU);
}

// *largest = max(*largest, |x|), as the bits of a float that is not negative.
__global__ void __launch_bounds__(threads) largest_kernel(Matrix x, unsigned num_packs, unsigned* largest) {
  const unsigned width = x.columns / 8;
  const unsigned step = gridDim.x * threads;
  unsigned most = 0;
  for (unsigned first = blockIdx.x * threads + threadIdx.x; first < num_packs; first += most_pass * step) {
    uint4 held[most_pass];
#pragma unroll
    for (int i = 0; i < most_pass; ++i) {
      const unsigned index = first + static_cast<unsigned>(i) * step;
      held[i] = make_uint4(0, 0, 0, 0);
      if (index >= num_packs) continue;
      const PackPlace at = pack_place(index, width);
      held[i] = load_once(x.data + at.row * x.stride + at.pack * 8);
    }
#pragma unroll
    for (int i = 0; i < most_pass; ++i) {
      most = larger_halves(larger_halves(most, held[i].x), held[i].y);
      most = larger_halves(larger_halves(most, held[i].z), held[i].w);
    }
  }
  most = max(most & 0xffffU, most >> 16);
  most = __reduce_max_sync(full_warp, most);
  __shared__ unsigned of_warp[threads / warp_width];
  if (threadIdx.x % warp_width == 0) of_warp[threadIdx.x / warp_width] = most;
  __syncthreads();
  if (threadIdx.x >= threads / warp_width) return;
  most = __reduce_max_sync((1U << (threads / warp_width)) - 1, of_warp[threadIdx.x]);
  if (threadIdx.x == 0 && most > 0) atomicMax(largest, most << 16);
}

struct Scaling {
  float multiply;
  float restore;
};

// Both formats end at 1.75 * 2^top. The power of two that brings `largest` up to there, and its inverse; both are
// normal numbers.
__device__ inline Scaling scaling_of(float largest, int top) {
  const unsigned bits = __float_as_uint(largest);
  const int exponent = static_cast<int>((bits >> 23) & 0xffU) - 127;
  if (exponent == 128 || largest < 0.0F) return {1.0F, __uint_as_float(0x7fc00000U)};
  if (bits == 0) return {1.0F, 1.0F};
  const int rest = (bits & 0x7fffffU) > 0x600000U ? 1 : 0;  // beyond 1.75
  const int up = min(max(top - exponent - rest, -126), 126);
  return {__uint_as_float(static_cast<unsigned>(127 + up) << 23),
          __uint_as_float(static_cast<unsigned>(127 - up) << 23)};
}

template <Float8 format>
__device__ inline unsigned two_of(float low, float high) {
  constexpr __nv_fp8_interpretation_t kind = format == Float8::e4m3 ? __NV_E4M3 : __NV_E5M2;
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, kind);
}

// Eight bf16 elements, scaled and rounded.
template <Float8 format>
__device__ inline uint2 eight_of(const uint4& x, float multiply) {
  float v[8];
  unpack(x, v);
#pragma unroll
  for (float& one : v) one *= multiply;
  return make_uint2(two_of<format>(v[0], v[1]) | two_of<format>(v[2], v[3]) << 16,
                    two_of<format>(v[4], v[5]) | two_of<format>(v[6], v[7]) << 16);
}

// Words of row r are kept at their place exclusive-or this, so that neither rows nor columns meet in a bank.
__device__ inline int turn_of(int row) {
  return row / 16 * 4;
}

// Four words of four neighbouring columns each, one a row, as four words of one column each.
__device__ inline void transpose4(unsigned (&w)[4]) {
  const unsigned low01 = __byte_perm(w[0], w[1], 0x5140);   // r0c0 r1c0 r0c1 r1c1
  const unsigned high01 = __byte_perm(w[0], w[1], 0x7362);  // r0c2 r1c2 r0c3 r1c3
  const unsigned low23 = __byte_perm(w[2], w[3], 0x5140);
  const unsigned high23 = __byte_perm(w[2], w[3], 0x7362);
  w[0] = __byte_perm(low01, low23, 0x5410);
  w[1] = __byte_perm(low01, low23, 0x7632);
  w[2] = __byte_perm(high01, high23, 0x5410);
  w[3] = __byte_perm(high01, high23, 0x7632);
}

// Either output may be null. Strides are in bytes.
template <Float8 format>
__global__ void __launch_bounds__(threads)
    quantize_kernel(Matrix x, const float* __restrict__ largest, std::uint8_t* __restrict__ values,
                    std::int64_t values_stride, std::uint8_t* __restrict__ transposed, std::int64_t transposed_stride,
                    float* __restrict__ scale) {
  __shared__ __align__(16) unsigned words[tile][tile / 4];
  const Scaling scaling = scaling_of(*largest, format == Float8::e4m3 ? 8 : 15);
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *scale = scaling.restore;
  const unsigned first_row = blockIdx.y * tile;
  const unsigned first_column = blockIdx.x * tile;
  const int pack = static_cast<int>(threadIdx.x) % packs_a_row;
  const int pass_row = static_cast<int>(threadIdx.x) / packs_a_row;
  const unsigned column = first_column + static_cast<unsigned>(pack) * 8;

  uint4 held[passes];
#pragma unroll
  for (int i = 0; i < passes; ++i) {
    const unsigned row = first_row + static_cast<unsigned>(i * rows_a_pass + pass_row);
    held[i] = make_uint4(0, 0, 0, 0);
    if (row < x.rows && column < x.columns) held[i] = load_once(x.data + row * x.stride + column);
  }
#pragma unroll
  for (int i = 0; i < passes; ++i) {
    const int tile_row = i * rows_a_pass + pass_row;
    const unsigned row = first_row + static_cast<unsigned>(tile_row);
    const uint2 eight = eight_of<format>(held[i], scaling.multiply);
    if (values != nullptr && row < x.rows && column < x.columns) {
      *reinterpret_cast<uint2*>(values + row * values_stride + column) = eight;
    }
    if (transposed != nullptr) *reinterpret_cast<uint2*>(&words[tile_row][2 * pack ^ turn_of(tile_row)]) = eight;
  }
  if (transposed == nullptr) return;
  __syncthreads();

  // Eight lanes have 16 rows each of four columns.
  const int row_block = static_cast<int>(threadIdx.x) % 8;
  const int quad = static_cast<int>(threadIdx.x) / 8;
  unsigned turned[4][4];  // [4 rows][column]
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) turned[i][j] = words[row_block * 16 + i * 4 + j][quad ^ turn_of(row_block * 16)];
    transpose4(turned[i]);
  }
  const unsigned row = first_row + static_cast<unsigned>(row_block) * 16;
  const unsigned out_column = first_column + static_cast<unsigned>(quad) * 4;
  if (row >= x.rows || out_column >= x.columns) return;
#pragma unroll
  for (unsigned c = 0; c < 4; ++c) {
    *reinterpret_cast<uint4*>(transposed + (out_column + c) * transposed_stride + row) =
        make_uint4(turned[0][c], turned[1][c], turned[2][c], turned[3][c]);
  }
}

}  // namespace

void quantize(const Context& ctx, const ConstTensorView& x, const Quantized& to, const ConstTensorView& largest) {
  if (x.numel() == 0) return;
  const auto aligned = [](const ConstTensorView& view, std::int64_t bytes) {
    return !view || (reinterpret_cast<std::uintptr_t>(view.data()) % static_cast<std::uintptr_t>(bytes) == 0 &&
                     view.stride(0) % bytes == 0);
  };
  PHOTON_EXPECT(packs(x) && aligned(to.values, 16) && aligned(to.transposed, 16),
                "an 8-bit copy of {} whose rows are not aligned to 16 bytes", x.shape().str());
  const Matrix matrix{device_data<bf16>(x), x.stride(0), static_cast<unsigned>(x.size(0)),
                      static_cast<unsigned>(x.size(1))};
  Workspace workspace(ctx);
  const float* bound = optional_data<float>(largest);
  if (bound == nullptr) {
    const TensorView found = workspace.take(DType::f32, {1});
    PHOTON_CUDA_CHECK(cudaMemsetAsync(found.data(), 0, sizeof(float), stream_of(ctx)));
    const unsigned num_packs = num_packs_of(x.numel(), 8);
    largest_kernel<<<grid_of(ceil_div(num_packs, most_pass * threads), 2048), threads, 0, stream_of(ctx)>>>(
        matrix, num_packs, static_cast<unsigned*>(found.data()));
    bound = device_data<float>(found);
  }
  const dim3 grid(static_cast<unsigned>(ceil_div(x.size(1), tile)), static_cast<unsigned>(ceil_div(x.size(0), tile)));
  const auto launch = [&](auto kernel) {
    kernel<<<grid, threads, 0, stream_of(ctx)>>>(
        matrix, bound, optional_data<std::uint8_t>(to.values), to.values ? to.values.stride(0) : 0,
        optional_data<std::uint8_t>(to.transposed), to.transposed ? to.transposed.stride(0) : 0,
        device_data<float>(to.scale));
  };
  to.format == Float8::e4m3 ? launch(quantize_kernel<Float8::e4m3>) : launch(quantize_kernel<Float8::e5m2>);
  PHOTON_CUDA_CHECK(cudaGetLastError());
}

bool has_float8() {
  int device = 0;
  int major = 0;
  int minor = 0;
  PHOTON_CUDA_CHECK(cudaGetDevice(&device));
  PHOTON_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  PHOTON_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor >= 89;
}

}  // namespace photon::cuda
