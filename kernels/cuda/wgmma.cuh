// Hopper's matrix units (sm_90a): products of a warpgroup, 64 rows by N columns, that read tiles of shared memory by
// descriptor and run beside other instructions until they are waited for.
#pragma once

#include "kernels/cuda/mma.cuh"

namespace photon::cuda::wgmma {

inline constexpr int warpgroup = 128;    // threads
inline constexpr int panel = 64;         // columns of bf16 in a tile of 128-byte rows
inline constexpr int panel_bytes = 128;  // a row of it
inline constexpr int group_bytes = 8 * panel_bytes;

// A tile [rows, 64] of mma::Tile<64>, whose permutation of chunks is the hardware's 128-byte swizzle; it must start at
// a multiple of 1024 bytes. Wider tiles are panels one after another, `panel_stride` bytes apart. `address` may lie
// inside a tile: 32 bytes a step of 16 columns, 128 bytes a row (in whole groups of 8 rows).
__device__ inline std::uint64_t descriptor(unsigned address, int panel_stride = 16) {
  return (std::uint64_t{address & 0x3ffffU} >> 4) | std::uint64_t(panel_stride >> 4) << 16 |
         std::uint64_t{group_bytes >> 4} << 32 | std::uint64_t{1} << 62;
}

// The same, further on in the tile.
__device__ inline std::uint64_t advance(std::uint64_t descriptor, int bytes) {
  return descriptor + static_cast<unsigned>(bytes >> 4);
}

// Registers a thread of this warpgroup may use from here on; all its warps call it.
template <int Registers>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// Shared memory written by ordinary stores or copies may be read by products after this and a barrier.
__device__ inline void publish() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Before the first product that uses registers which other instructions have written.
__device__ inline void begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int Pending>
__device__ void wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// Keeps the compiler from using sums before the wait above, or from moving them while products run.
template <int N>
__device__ void settle(float (&d)[N][4]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(d[j][e])::"memory");
  }
}

// How a tile in shared memory lies: `along` as it is multiplied (a tile row holds what is summed), or `crossed`.
using mma::Lies;

// d [64, N] (+)= a b over 16 terms: d[j] of a lane covers columns 8 j as mma::Sum does, warp w of the group rows 16 w.
// keep: 0 replaces d.
template <Lies a_lies, Lies b_lies>
__device__ void multiply(float (&d)[4][4], std::uint64_t a, std::uint64_t b, int keep) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
      "}, %16, %17, p, 1, 1, %19, %20; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3])
      : "l"(a), "l"(b), "r"(keep), "n"(a_lies == Lies::crossed ? 1 : 0), "n"(b_lies == Lies::crossed ? 1 : 0));
}
template <Lies b_lies>
__device__ void multiply(float (&d)[4][4], const mma::Fragment& a, std::uint64_t b, int keep) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %21, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
      "}, {%16, %17, %18, %19}, %20, p, 1, 1, %22; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(b_lies == Lies::crossed ? 1 : 0));
}

template <Lies a_lies, Lies b_lies>
__device__ void multiply(float (&d)[8][4], std::uint64_t a, std::uint64_t b, int keep) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, p, 1, 1, %35, %36; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
      : "l"(a), "l"(b), "r"(keep), "n"(a_lies == Lies::crossed ? 1 : 0), "n"(b_lies == Lies::crossed ? 1 : 0));
}
template <Lies b_lies>
__device__ void multiply(float (&d)[8][4], const mma::Fragment& a, std::uint64_t b, int keep) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(b_lies == Lies::crossed ? 1 : 0));
}

template <Lies a_lies, Lies b_lies>
__device__ void multiply(float (&d)[16][4], std::uint64_t a, std::uint64_t b, int keep) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1, %67, %68; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]),
        "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]),
        "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]),
        "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]),
        "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]),
        "+f"(d[15][3])
      : "l"(a), "l"(b), "r"(keep), "n"(a_lies == Lies::crossed ? 1 : 0), "n"(b_lies == Lies::crossed ? 1 : 0));
}
template <Lies b_lies>
__device__ void multiply(float (&d)[16][4], const mma::Fragment& a, std::uint64_t b, int keep) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70; }"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]),
        "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]),
        "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]),
        "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]),
        "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]),
        "+f"(d[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(b_lies == Lies::crossed ? 1 : 0));
}

// What lies in registers as a product's result becomes a left operand, 16 columns of it a fragment.
template <int N>
__device__ void to_fragments(const float (&x)[N][4], mma::Fragment (&to)[N / 2]) {
#pragma unroll
  for (int k = 0; k < N / 2; ++k) {
    to[k][0] = mma::pack(x[2 * k][0], x[2 * k][1]);
    to[k][1] = mma::pack(x[2 * k][2], x[2 * k][3]);
    to[k][2] = mma::pack(x[2 * k + 1][0], x[2 * k + 1][1]);
    to[k][3] = mma::pack(x[2 * k + 1][2], x[2 * k + 1][3]);
  }
}

// Queues copies of positions first .. first + Rows - 1 of one head into panels [Rows, 64]; zeros beyond `positions`.
template <int Rows, int Width, int Threads>
__device__ void load_panels(unsigned to, const bf16* __restrict__ from, std::int64_t stride, int first, int positions) {
  constexpr int chunks = Width / mma::chunk_elements;
  constexpr int rows_a_step = Threads / chunks;
  static_assert(Threads % chunks == 0 && Rows % rows_a_step == 0);
  const int chunk = static_cast<int>(threadIdx.x) % chunks;
  const int own = static_cast<int>(threadIdx.x) / chunks;
  const mma::Tile<panel> tile{to + chunk / 8 * (Rows * panel_bytes)};
  const bf16* source = from + (std::int64_t{first} + own) * stride + chunk * mma::chunk_elements;
#pragma unroll
  for (int step = 0; step < Rows / rows_a_step; ++step) {
    const int row = own + step * rows_a_step;
    const bool inside = first + row < positions;
    mma::copy_chunk(tile.at(row, chunk % 8), inside ? source : from, inside);
    source += rows_a_step * stride;
  }
}

// Whether this pass of the compiler can use the instructions above.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PHOTON_HAVE_WGMMA 1
#else
#define PHOTON_HAVE_WGMMA 0
#endif
// Kernels for sm_90a are bounded to this many threads where they cannot be compiled, which is how the host knows.
#define PHOTON_WGMMA_THREADS(count) (PHOTON_HAVE_WGMMA ? (count) : 32)

template <class Kernel>
bool available(Kernel kernel, int threads) {
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  return attributes.maxThreadsPerBlock >= threads;
}

}  // namespace photon::cuda::wgmma
