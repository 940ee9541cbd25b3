// Products of a warp on bf16 fragments of 8 rows in registers, and transposes between them.
//
// Fragments hold 8 rows: lane l has row l / 4, and of it the columns 2 (l % 4) and 2 (l % 4) + 1 of every 8, packed in
// one 32-bit register. Products pad the 8 rows of a to the 16 of the instruction with zeros.
#pragma once

#include "kernels/cuda/mma.cuh"

namespace photon::cuda {

// c[8, 8] += a[8, 16] b[8, 16]^T; the columns of a and b may be permuted alike.
__device__ inline void multiply_rows(float2& c, std::uint32_t a0, std::uint32_t a1, std::uint32_t b0,
                                     std::uint32_t b1) {
  float low = 0;
  float high = 0;
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c.x), "+f"(c.y), "+f"(low), "+f"(high)
      : "r"(a0), "r"(0U), "r"(a1), "r"(0U), "r"(b0), "r"(b1));
}

// a[8, 8] b[8, 8], where `b_transposed` holds b^T.
__device__ inline float2 multiply_columns(std::uint32_t a, std::uint32_t b_transposed) {
  float2 c;
  [[maybe_unused]] float low;
  [[maybe_unused]] float high;
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
      : "=f"(c.x), "=f"(c.y), "=f"(low), "=f"(high)
      : "r"(a), "r"(0U), "r"(b_transposed), "f"(0.0F));
  return c;
}

// The transpose of an 8 x 8 fragment.
__device__ inline std::uint32_t transpose(std::uint32_t x) {
  std::uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// Over the 4 lanes that share a row.
__device__ inline float row_max4(float x) {
  x = fmaxf(x, __shfl_xor_sync(full_warp, x, 1));
  return fmaxf(x, __shfl_xor_sync(full_warp, x, 2));
}
__device__ inline float row_sum4(float x) {
  x += __shfl_xor_sync(full_warp, x, 1);
  return x + __shfl_xor_sync(full_warp, x, 2);
}

}  // namespace photon::cuda
