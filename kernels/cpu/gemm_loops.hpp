// Matrix products of one instruction set. C = A B^T as dot products: every element is accumulated in `lanes` partial
// sums over k in blocks of `block_k`, each block's partial sums added as one balanced tree, the blocks in ascending
// order. That order is the same in the packed and in the direct kernel and for every tile shape, so an element's bits
// depend on its row of A and its row of B alone.
#pragma once

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/simd.hpp"

namespace photon::cpu::PHOTON_ISA {

// The balanced-tree sums of four vectors.
struct Four {
  float at[4];
};
inline Four sum_lanes_4(Vec a, Vec b, Vec c, Vec d) {
#if PHOTON_LANES == 16
  // Distance 8: [a.lo + a.hi | b.lo + b.hi], then 4, so that quarter q holds the four sums of vector q; then 2 and 1.
  const Vec ab = __builtin_shuffle(a, b, IntVec{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}) +
                 __builtin_shuffle(a, b, IntVec{8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31});
  const Vec cd = __builtin_shuffle(c, d, IntVec{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}) +
                 __builtin_shuffle(c, d, IntVec{8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31});
  Vec s = __builtin_shuffle(ab, cd, IntVec{0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27}) +
          __builtin_shuffle(ab, cd, IntVec{4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31});
  s += __builtin_shuffle(s, IntVec{2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15});
  s += __builtin_shuffle(s, IntVec{1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13, 13, 13, 13});
  return {{s[0], s[4], s[8], s[12]}};
#else
  return {{sum_lanes(a), sum_lanes(b), sum_lanes(c), sum_lanes(d)}};
#endif
}

// Makes the compiler hold a vector in a register instead of loading it again at each use.
inline void hold(Vec& v) {
#if defined(__x86_64__)
  __asm__("" : "+v"(v));
#else
  (void)v;
#endif
}

// One block of k for R rows of A against C rows of B, straight from memory; adds to or replaces c.
template <int R, int C>
inline void dot_block(const float* a, std::int64_t lda, const float* b, std::int64_t ldb, std::int64_t k, float* c,
                      std::int64_t ldc, bool accumulate) {
  Vec sums[R][C] = {};
  std::int64_t i = 0;
  for (; i + lanes <= k; i += lanes) {
    Vec bv[C];
#pragma GCC unroll 8
    for (int o = 0; o < C; ++o) {
      bv[o] = load(b + o * ldb + i);
      hold(bv[o]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec av = load(a + r * lda + i);
#pragma GCC unroll 8
      for (int o = 0; o < C; ++o) sums[r][o] = fma(av, bv[o], sums[r][o]);
    }
  }
  if (i < k) {
    Vec bv[C];
#pragma GCC unroll 8
    for (int o = 0; o < C; ++o) bv[o] = load_first(b + o * ldb + i, k - i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec av = load_first(a + r * lda + i, k - i);
#pragma GCC unroll 8
      for (int o = 0; o < C; ++o) sums[r][o] = fma(av, bv[o], sums[r][o]);
    }
  }
  // The sums are reduced four at a time, across the tile's rows where a row has fewer.
#pragma GCC unroll 8
  for (int i4 = 0; i4 < R * C; i4 += 4) {
    const auto sum_at = [&](int n) { return n < R * C ? sums[n / C][n % C] : Vec{}; };
    const Four s = sum_lanes_4(sum_at(i4), sum_at(i4 + 1), sum_at(i4 + 2), sum_at(i4 + 3));
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if (i4 + j >= R * C) continue;
      float* to = c + (i4 + j) / C * ldc + (i4 + j) % C;
      *to = accumulate ? *to + s.at[j] : s.at[j];
    }
  }
}

// `outputs` rows of B against R rows of A, one block of k.
template <int R>
inline void dot_rows(const float* a, std::int64_t lda, const float* b, std::int64_t ldb, std::int64_t outputs,
                     std::int64_t k, float* c, std::int64_t ldc, bool accumulate) {
  constexpr int wide = R <= 2 && lanes == 16 ? 8 : 4;
  std::int64_t o = 0;
  for (; o + wide <= outputs; o += wide) dot_block<R, wide>(a, lda, b + o * ldb, ldb, k, c + o, ldc, accumulate);
  for (; o + 4 <= outputs; o += 4) dot_block<R, 4>(a, lda, b + o * ldb, ldb, k, c + o, ldc, accumulate);
  switch (outputs - o) {
    case 1:
      return dot_block<R, 1>(a, lda, b + o * ldb, ldb, k, c + o, ldc, accumulate);
    case 2:
      return dot_block<R, 2>(a, lda, b + o * ldb, ldb, k, c + o, ldc, accumulate);
    case 3:
      return dot_block<R, 3>(a, lda, b + o * ldb, ldb, k, c + o, ldc, accumulate);
    default:
      return;
  }
}

// c[r, o] (+)= sum_k a[r, k] b[o, k], straight from memory.
inline void dot_direct(const float* a, std::int64_t lda, std::int64_t rows, const float* b, std::int64_t ldb,
                       std::int64_t outputs, std::int64_t k, float* c, std::int64_t ldc, bool accumulate) {
  constexpr int most = PHOTON_LANES == 16 ? 4 : 2;
  if (k == 0 && !accumulate) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t o = 0; o < outputs; ++o) c[r * ldc + o] = 0;
    }
    return;
  }
  // A strip of B that stays in the first-level cache while every row of A passes over it.
  constexpr std::int64_t strip = 8;
  for (std::int64_t o = 0; o < outputs; o += strip) {
    const std::int64_t count = outputs - o < strip ? outputs - o : strip;
    for (std::int64_t begin = 0; begin < k; begin += block_k) {
      const std::int64_t terms = k - begin < block_k ? k - begin : block_k;
      const bool add = accumulate || begin > 0;
      const float* bo = b + o * ldb + begin;
      const float* ar = a + begin;
      float* cr = c + o;
      std::int64_t r = 0;
      for (; r + most <= rows; r += most, ar += most * lda, cr += most * ldc) {
        dot_rows<most>(ar, lda, bo, ldb, count, terms, cr, ldc, add);
      }
      switch (rows - r) {
        case 1:
          dot_rows<1>(ar, lda, bo, ldb, count, terms, cr, ldc, add);
          break;
        case 2:
          if constexpr (most > 2) dot_rows<2>(ar, lda, bo, ldb, count, terms, cr, ldc, add);
          break;
        case 3:
          if constexpr (most > 2) dot_rows<3>(ar, lda, bo, ldb, count, terms, cr, ldc, add);
          break;
        default:
          break;
      }
    }
  }
}

// Copies `k` columns of the matrix from column `begin` on to rows `packed_row` apart.
inline void pack(const Matrix& m, std::int64_t begin, std::int64_t k, float* to) {
  if (m.step == 1) {
    for (std::int64_t r = 0; r < m.rows; ++r) {
      __builtin_memcpy(to + r * packed_row, m.data + r * m.row + begin, static_cast<std::size_t>(k) * sizeof(float));
    }
    return;
  }
  // A transposition, in squares small enough that both sides stay in cache.
  constexpr std::int64_t side = 16;
  for (std::int64_t i = 0; i < k; i += side) {
    const std::int64_t columns = k - i < side ? k - i : side;
    for (std::int64_t r = 0; r < m.rows; r += side) {
      const std::int64_t rows = m.rows - r < side ? m.rows - r : side;
      const float* from = m.data + r * m.row + (begin + i) * m.step;
      float* square = to + r * packed_row + i;
      for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t n = 0; n < rows; ++n) square[n * packed_row + j] = from[n * m.row + j * m.step];
      }
    }
  }
}

// All of k for a panel of rows of A against a panel of rows of B, each packed first where asked for.
inline void dot_panel(const Matrix& a, bool pack_a, const Matrix& b, bool pack_b, std::int64_t k, float* c,
                      std::int64_t ldc, bool accumulate, float* scratch) {
  if (k == 0 && !accumulate) dot_direct(nullptr, 0, a.rows, nullptr, 0, b.rows, 0, c, ldc, false);
  float* packed_a = scratch;
  float* packed_b = scratch + (pack_a ? a.rows * packed_row : 0);
  for (std::int64_t begin = 0; begin < k; begin += block_k) {
    const std::int64_t count = k - begin < block_k ? k - begin : block_k;
    if (pack_a) pack(a, begin, count, packed_a);
    if (pack_b) pack(b, begin, count, packed_b);
    dot_direct(pack_a ? packed_a : a.data + begin, pack_a ? packed_row : a.row, a.rows,
               pack_b ? packed_b : b.data + begin, pack_b ? packed_row : b.row, b.rows, count, c, ldc,
               accumulate || begin > 0);
  }
}

template <int R, int C>
inline void outer_tile(const float* a, std::int64_t row, std::int64_t step, std::int64_t k, const float* b,
                       std::int64_t ldb, std::int64_t width, float* c, std::int64_t ldc) {
  Vec sums[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) sums[r][v] = load_upto(c + r * ldc + v * lanes, width - v * lanes);
  }
  for (std::int64_t i = 0; i < k; ++i) {
    Vec bv[C];
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) bv[v] = load_upto(b + i * ldb + v * lanes, width - v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec av = splat(a[r * row + i * step]);
#pragma GCC unroll 8
      for (int v = 0; v < C; ++v) sums[r][v] = fma(av, bv[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < C; ++v) store_upto(c + r * ldc + v * lanes, sums[r][v], width - v * lanes);
  }
}

template <int C>
inline void outer_columns(const float* a, std::int64_t row, std::int64_t step, std::int64_t rows, std::int64_t k,
                          const float* b, std::int64_t ldb, std::int64_t width, float* c, std::int64_t ldc) {
  constexpr int most = PHOTON_LANES == 16 ? 4 : 2;
  std::int64_t r = 0;
  for (; r + most <= rows; r += most) outer_tile<most, C>(a + r * row, row, step, k, b, ldb, width, c + r * ldc, ldc);
  for (; r < rows; ++r) outer_tile<1, C>(a + r * row, row, step, k, b, ldb, width, c + r * ldc, ldc);
}

// c[r, d] += sum_k a[r * row + k * step] b[k, d], k ascending: small matrices in cache.
inline void outer_direct(const float* a, std::int64_t row, std::int64_t step, std::int64_t rows, std::int64_t k,
                         const float* b, std::int64_t ldb, std::int64_t width, float* c, std::int64_t ldc) {
  std::int64_t d = 0;
  for (; d + 4 * lanes <= width; d += 4 * lanes) {
    outer_columns<4>(a, row, step, rows, k, b + d, ldb, 4 * lanes, c + d, ldc);
  }
  for (; d < width; d += lanes) {
    const std::int64_t here = width - d < lanes ? width - d : lanes;
    outer_columns<1>(a, row, step, rows, k, b + d, ldb, here, c + d, ldc);
  }
}

}  // namespace photon::cpu::PHOTON_ISA
