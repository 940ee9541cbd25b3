// Tensor-core building blocks of sm_80 and later: bf16 tiles in shared memory, asynchronous copies into them, and
// products of 16 x 8 x 16 with float32 sums.
#pragma once

#include "kernels/cuda/common.cuh"

namespace photon::cuda::mma {

inline constexpr int chunk_bytes = 16;  // what one thread copies, and what one row of an 8 x 8 matrix holds
inline constexpr int chunk_elements = chunk_bytes / 2;

__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// A tile of bf16 rows in shared memory, `Columns` a row. The 16-byte chunks of a row are permuted by the row's number,
// so that eight rows' chunks of one column lie in different banks.
template <int Columns>
struct Tile {
  static constexpr int chunks = Columns / chunk_elements;
  static constexpr int row_bytes = Columns * 2;
  static_assert(chunks >= 8);
  unsigned base;

  __device__ unsigned at(int row, int chunk) const {
    return base + row * row_bytes + ((chunk ^ (row & 7)) * chunk_bytes);
  }
};

// Copies 16 bytes, or writes 16 zero bytes where `inside` is false (`from` is not read then).
__device__ inline void copy_chunk(unsigned to, const void* from, bool inside) {
  const int bytes = inside ? chunk_bytes : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int Pending>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Queues the copy of positions first .. first + Rows - 1 of one head; zeros beyond `positions`.
template <int Rows, int Columns, int Threads>
__device__ void load_rows(Tile<Columns> to, const bf16* __restrict__ from, std::int64_t stride, int first,
                          int positions) {
  constexpr int chunks = Tile<Columns>::chunks;
  constexpr int rows_a_step = Threads / chunks;
  static_assert(Threads % chunks == 0 && Rows % rows_a_step == 0);
  const int chunk = static_cast<int>(threadIdx.x) % chunks;
  const int own = static_cast<int>(threadIdx.x) / chunks;
  const bf16* source = from + (std::int64_t{first} + own) * stride + chunk * chunk_elements;
#pragma unroll
  for (int step = 0; step < Rows / rows_a_step; ++step) {
    const int row = own + step * rows_a_step;
    const bool inside = first + row < positions;
    copy_chunk(to.at(row, chunk), inside ? source : from, inside);
    source += rows_a_step * stride;
  }
}

// Which row and chunk of a 16 x 16 piece a lane names in the matrix loads below. `plain`: rows of the tile are rows of
// the left operand (or columns of a right operand that is loaded transposed). `crossed`: rows and chunks exchanged.
struct Lane {
  int row;
  int chunk;
};
__device__ inline Lane plain_lane() {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  return {lane & 15, lane >> 4};
}
__device__ inline Lane crossed_lane() {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
  return {(lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1};
}

using Fragment = unsigned[4];

__device__ inline void load_matrix(Fragment& to, unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
__device__ inline void load_matrix_transposed(Fragment& to, unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

// sum [16, 8] += a [16, 16] b [16, 8]. Lane l holds sum[l / 4][2 (l % 4) + {0, 1}] and, in 2 and 3, the row 8 below.
__device__ inline void multiply_add(float (&sum)[4], const Fragment& a, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline unsigned pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const unsigned&>(both);
}
__device__ inline void store_word(unsigned to, unsigned word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}

// 2^x; results below the smallest normal number are 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// What a warp's product of [16 * Across, Depth] and [Depth, 16 * Down] adds up: sum[i][j] covers rows 16 i and columns
// 8 j of it.
template <int Across, int Down>
using Sum = float[Across][2 * Down][4];

template <int Across, int Down>
__device__ void clear(Sum<Across, Down>& sum) {
#pragma unroll
  for (int i = 0; i < Across; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * Down; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i][j][e] = 0;
    }
  }
}

// How an operand lies in its tile: along the product's own rows (left) or columns (right) a tile row each, or crossed:
// a tile row is one step along the summed dim.
enum class Lies { along, crossed };

// sum += left right, the left operand from tile rows (along) or columns (crossed) `left_first`, the right one likewise.
template <int Across, int Down, int Depth, Lies left_lies, Lies right_lies, int LeftColumns, int RightColumns>
__device__ void add_product(Sum<Across, Down>& sum, Tile<LeftColumns> left, int left_first, Tile<RightColumns> right,
                            int right_first) {
  const Lane left_lane = left_lies == Lies::along ? plain_lane() : crossed_lane();
  const Lane right_lane = right_lies == Lies::along ? crossed_lane() : plain_lane();
#pragma unroll
  for (int k = 0; k < Depth / 16; ++k) {
    Fragment a[Across];
#pragma unroll
    for (int i = 0; i < Across; ++i) {
      if constexpr (left_lies == Lies::along) {
        load_matrix(a[i], left.at(left_first + 16 * i + left_lane.row, 2 * k + left_lane.chunk));
      } else {
        load_matrix_transposed(a[i], left.at(16 * k + left_lane.row, left_first / 8 + 2 * i + left_lane.chunk));
      }
    }
#pragma unroll
    for (int j = 0; j < Down; ++j) {
      Fragment b;
      if constexpr (right_lies == Lies::along) {
        load_matrix(b, right.at(right_first + 16 * j + right_lane.row, 2 * k + right_lane.chunk));
      } else {
        load_matrix_transposed(b, right.at(16 * k + right_lane.row, right_first / 8 + 2 * j + right_lane.chunk));
      }
#pragma unroll
      for (int i = 0; i < Across; ++i) {
        multiply_add(sum[i][2 * j], a[i], b[0], b[1]);
        multiply_add(sum[i][2 * j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

}  // namespace photon::cuda::mma
