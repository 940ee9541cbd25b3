// Tiles of stream attention: 64 rows against 32 columns of heads held in shared memory as float32, for blocks of 16 x
// 16 threads. Thread (ty, tx) holds rows 4 ty .. 4 ty + 3 of every product.
#pragma once

#include "kernels/cuda/common.cuh"

namespace photon::cuda::tile {

inline constexpr int rows = 64;
inline constexpr int columns = 32;
inline constexpr int threads = 256;
inline constexpr int side = 16;                     // threads a side of the block
inline constexpr int own_rows = rows / side;        // 4
inline constexpr int own_columns = columns / side;  // 2: columns tx and tx + 16
inline constexpr int weight_length =
    columns + 4;  // floats a row of a [rows, columns] tile, padded against bank conflicts

template <int Width>
inline constexpr int length = Width + 4;  // floats a row of a head tile, padded likewise; still 16-byte aligned

// What one (sequence, head) of a [B, N, H, hd] tensor is.
template <class T>
struct Heads {
  T* data;
  std::int64_t batch;
  std::int64_t position;
  std::int64_t head;
  __device__ T* at(std::int64_t b, std::int64_t h) const { return data + b * batch + h * head; }
};

struct Sizes {
  std::int64_t positions;  // N
  std::int64_t window;     // 0: none
  int head_width;
  int heads_a_key;
  float scale;
};

__device__ inline bool sees(std::int64_t query, std::int64_t key, const Sizes& s) {
  return key <= query && query < s.positions && (s.window == 0 || key > query - s.window);
}
__device__ inline int tx() {
  return static_cast<int>(threadIdx.x) % side;
}
__device__ inline int ty() {
  return static_cast<int>(threadIdx.x) / side;
}

// Positions first .. first + Count - 1 of a head, zero beyond the sequence and beyond the head's width.
template <int Width, int Count, class T>
__device__ void load(float* __restrict__ to, const T* __restrict__ from, std::int64_t stride, std::int64_t first,
                     const Sizes& s) {
  for (int i = static_cast<int>(threadIdx.x); i < Count * Width; i += threads) {
    const int row = i / Width;
    const int d = i % Width;
    const bool inside = first + row < s.positions && d < s.head_width;
    to[row * length<Width> + d] = inside ? to_f32(from[(first + row) * stride + d]) : 0.0F;
  }
}

// products[r][c] = a[row r] . b[column c]
template <int Width>
__device__ void multiply_rows(const float* __restrict__ a, const float* __restrict__ b,
                              float (&products)[own_rows][own_columns]) {
  for (auto& row : products) {
    for (float& x : row) x = 0;
  }
  const float* const a_rows = a + ty() * own_rows * length<Width>;
#pragma unroll 4
  for (int d = 0; d < Width; d += 4) {
    Pack<float, 4> left[own_rows];
    Pack<float, 4> right[own_columns];
#pragma unroll
    for (int r = 0; r < own_rows; ++r) left[r] = load_pack<4>(a_rows + r * length<Width> + d);
#pragma unroll
    for (int c = 0; c < own_columns; ++c) right[c] = load_pack<4>(b + (tx() + c * side) * length<Width> + d);
#pragma unroll
    for (int r = 0; r < own_rows; ++r) {
#pragma unroll
      for (int c = 0; c < own_columns; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) products[r][c] += left[r].v[j] * right[c].v[j];
      }
    }
  }
}

// A [rows, Width] result: this thread's rows, elements 4 tx + 64 c + j.
template <int Width>
struct Sum {
  static constexpr int parts = Width / (4 * side);
  float v[own_rows][parts][4];

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < own_rows; ++r) {
#pragma unroll
      for (int c = 0; c < parts; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) v[r][c][j] = 0;
      }
    }
  }
  __device__ void scale_row(int r, float factor) {
#pragma unroll
    for (int c = 0; c < parts; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) v[r][c][j] *= factor;
    }
  }
  // += weights [rows, columns] times heads [columns, Width]
  __device__ void add_product(const float* __restrict__ weights, const float* __restrict__ heads) {
#pragma unroll 4
    for (int k = 0; k < columns; ++k) {
      Pack<float, 4> right[parts];
#pragma unroll
      for (int c = 0; c < parts; ++c) right[c] = load_pack<4>(heads + k * length<Width> + c * 4 * side + 4 * tx());
#pragma unroll
      for (int r = 0; r < own_rows; ++r) {
        const float left = weights[(ty() * own_rows + r) * weight_length + k];
#pragma unroll
        for (int c = 0; c < parts; ++c) {
#pragma unroll
          for (int j = 0; j < 4; ++j) v[r][c][j] += left * right[c].v[j];
        }
      }
    }
  }
  template <class T>
  __device__ void write(T* __restrict__ to, std::int64_t stride, std::int64_t first, const Sizes& s) const {
#pragma unroll
    for (int r = 0; r < own_rows; ++r) {
      const std::int64_t position = first + ty() * own_rows + r;
      if (position >= s.positions) continue;
#pragma unroll
      for (int c = 0; c < parts; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int d = c * 4 * side + 4 * tx() + j;
          if (d < s.head_width) to[position * stride + d] = from_f32<T>(v[r][c][j]);
        }
      }
    }
  }
};

// Writes this thread's part of a [rows, columns] tile of weights.
__device__ inline void store_weights(float* __restrict__ to, const float (&weights)[own_rows][own_columns]) {
#pragma unroll
  for (int r = 0; r < own_rows; ++r) {
#pragma unroll
    for (int c = 0; c < own_columns; ++c) to[(ty() * own_rows + r) * weight_length + tx() + c * side] = weights[r][c];
  }
}

// Over the 16 threads that share a row.
__device__ inline float row_max(float x) {
  for (int step = side / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(full_warp, x, step));
  return x;
}
__device__ inline float row_sum(float x) {
  for (int step = side / 2; step > 0; step /= 2) x += __shfl_xor_sync(full_warp, x, step);
  return x;
}

}  // namespace photon::cuda::tile
