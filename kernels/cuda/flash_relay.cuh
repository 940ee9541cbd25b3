// How dq is summed over blocks that each own some keys: a tile of queries is handed from block to block in order of
// descending keys. Each waits for its predecessor's part, adds its own and passes it on; the last one writes dq. Blocks
// take their work in that order, so whoever is waited for has started; it has also come past the tile earlier, so
// nobody waits long.
#pragma once

#include "kernels/cuda/flash_backward.cuh"
#include "kernels/cuda/scratch.hpp"

namespace photon::cuda::flash {

inline constexpr int backward_threads = 256;
inline constexpr int backward_warps = backward_threads / warp_width;
inline constexpr int backward_keys = 128;  // a block's own
inline constexpr int backward_rows = 64;   // queries at a time
static_assert(backward_warps == flash_turns);

__device__ inline void wait_for_turn(const int* turn, int rank) {
  if (threadIdx.x % warp_width == 0) {
    int seen = 0;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(turn) : "memory");
    } while (seen != rank);
  }
  __syncwarp();
}
__device__ inline void pass_turn(int* turn, int rank) {
  __syncwarp();
  if (threadIdx.x % warp_width == 0) {
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turn), "r"(rank) : "memory");
  }
}

// One block's work, and the order in which it comes past tiles of queries.
struct Work {
  int key_tile;
  int kh;
  int b;
  int num_heads;
  int first_key;
  int first_tile;  // of the queries that see any of these keys
  int a_head;      // tiles a query head
  int query_tiles;

  __device__ Work(int ticket, int num_key_heads, const Sizes& s) {
    const int key_tiles = (s.positions + backward_keys - 1) / backward_keys;
    query_tiles = (s.positions + backward_rows - 1) / backward_rows;
    key_tile = key_tiles - 1 - ticket % key_tiles;
    kh = ticket / key_tiles % num_key_heads;
    b = ticket / key_tiles / num_key_heads;
    num_heads = num_key_heads * s.heads_a_key;
    first_key = key_tile * backward_keys;
    first_tile = first_key / backward_rows;
    const int last_query =
        s.window > 0 ? min(s.positions - 1, first_key + backward_keys - 2 + s.window) : s.positions - 1;
    a_head = last_query / backward_rows - first_tile + 1;
  }
  __device__ int head(int step, const Sizes& s) const { return kh * s.heads_a_key + step / a_head; }
  __device__ int tile(int step) const { return first_tile + step % a_head; }
  // How many blocks add to this tile before this one, and whether it is the last.
  __device__ int rank(int tile, const Sizes& s) const {
    return min(tile * backward_rows + backward_rows - 1, s.positions - 1) / backward_keys - key_tile;
  }
  __device__ bool last(int tile, const Sizes& s) const {
    return key_tile == (s.window > 0 ? max(0, tile * backward_rows - s.window + 1) / backward_keys : 0);
  }
  // Where this warp's part of the tile lies in Relay::turns.
  __device__ std::int64_t place(int h, int tile) const {
    return ((std::int64_t{b} * num_heads + h) * query_tiles + tile) * backward_warps + threadIdx.x / warp_width;
  }
};

// A lane's part of dq, N groups of 8 columns for each of 16 rows of a warp, as a product leaves it.
template <int N>
__device__ void receive(float (&sum)[N][4], const float* from, bool first) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    float4 x = make_float4(0, 0, 0, 0);
    if (!first) x = __ldcg(reinterpret_cast<const float4*>(from) + j * warp_width + threadIdx.x % warp_width);
    sum[j][0] = x.x;
    sum[j][1] = x.y;
    sum[j][2] = x.z;
    sum[j][3] = x.w;
  }
}
template <int N>
__device__ void pass_on(const float (&sum)[N][4], float* to) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    __stcg(reinterpret_cast<float4*>(to) + j * warp_width + threadIdx.x % warp_width,
           make_float4(sum[j][0], sum[j][1], sum[j][2], sum[j][3]));
  }
}
// Rows first_row .. + 15 from column `column` on.
template <int N>
__device__ void finish(const float (&sum)[N][4], bf16* __restrict__ to, std::int64_t stride, int first_row, int column,
                       const Sizes& s) {
  const int lane = static_cast<int>(threadIdx.x) % warp_width;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + 8 * half + lane / 4;
    if (row >= s.positions) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      *reinterpret_cast<unsigned*>(to + row * stride + column + 8 * j + lane % 4 * 2) =
          mma::pack(sum[j][2 * half] * s.scale, sum[j][2 * half + 1] * s.scale);
    }
  }
}

}  // namespace photon::cuda::flash
