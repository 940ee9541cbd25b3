// Vectors of floats for one instruction set. Each loops_<isa>.cpp sets the compiler's target, defines PHOTON_ISA and
// PHOTON_LANES, and includes the bodies; everything lives in a namespace named after the instruction set, so the three
// versions do not collide.
//
// Reductions are written with these vectors, never left to the compiler's vectoriser: the order of the additions must
// depend on nothing but the length.
#pragma once

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <limits>

namespace photon::cpu::PHOTON_ISA {

inline constexpr int lanes = PHOTON_LANES;
typedef float Vec __attribute__((vector_size(PHOTON_LANES * 4)));            // NOLINT(modernize-use-using)
typedef std::int32_t IntVec __attribute__((vector_size(PHOTON_LANES * 4)));  // NOLINT(modernize-use-using)

inline Vec splat(float x) {
  return x - Vec{};
}
inline Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// a * b + c, rounded once where the hardware can.
inline Vec fma(Vec a, Vec b, Vec c) {
#if PHOTON_LANES == 16
  return _mm512_fmadd_ps(a, b, c);
#elif PHOTON_LANES == 8
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// The first `count` (1 .. lanes) floats; zeros after them. Memory beyond is not touched.
inline Vec load_first(const float* p, std::int64_t count) {
#if PHOTON_LANES == 16
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1U), p);
#else
  if (count < 0 || count > lanes) __builtin_unreachable();  // so that compilers know the copy to be small
  Vec v{};
  __builtin_memcpy(&v, p, static_cast<std::size_t>(count) * sizeof(float));
  return v;
#endif
}
inline void store_first(float* p, Vec v, std::int64_t count) {
#if PHOTON_LANES == 16
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << count) - 1U), v);
#else
  if (count < 0 || count > lanes) __builtin_unreachable();
  __builtin_memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(float));
#endif
}

// Whole vectors take the fast path; `count` may be anything from 1 up.
inline Vec load_upto(const float* p, std::int64_t count) {
  return count >= lanes ? load(p) : load_first(p, count);
}
inline void store_upto(float* p, Vec v, std::int64_t count) {
  if (count >= lanes) {
    store(p, v);
  } else {
    store_first(p, v, count);
  }
}

// NaN in `a` gives NaN; NaN in `b` gives a.
inline Vec max(Vec a, Vec b) {
  return b > a ? b : a;
}

inline Vec sqrt(Vec v) {
#if PHOTON_LANES == 16
  return _mm512_maskz_sqrt_ps(0xFFFF, v);
#elif PHOTON_LANES == 8
  return _mm256_sqrt_ps(v);
#else
  for (int i = 0; i < lanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

// Lane i gets lane (i + Distance) mod lanes.
template <int Distance>
inline Vec rotate_lanes(Vec v) {
  IntVec from{};
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) from[i] = (i + Distance) % lanes;
  return __builtin_shuffle(v, from);
}
// The lanes added as a balanced tree: i with i + lanes/2, then + lanes/4, ... The same tree for every caller.
template <int Distance = lanes / 2>
inline float sum_lanes(Vec v) {
  v += rotate_lanes<Distance>(v);
  if constexpr (Distance > 1) {
    return sum_lanes<Distance / 2>(v);
  } else {
    return v[0];
  }
}
template <int Distance = lanes / 2>
inline float max_lanes(Vec v) {
  v = max(v, rotate_lanes<Distance>(v));
  if constexpr (Distance > 1) {
    return max_lanes<Distance / 2>(v);
  } else {
    return v[0];
  }
}
// All ones in the lanes whose index, counted from `first`, lies in [begin, end).
inline IntVec lanes_between(std::int64_t first, std::int64_t begin, std::int64_t end) {
  IntVec index{};
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) index[i] = i;
  index += static_cast<std::int32_t>(first);
  return (index >= static_cast<std::int32_t>(begin)) & (index < static_cast<std::int32_t>(end));
}
// In double, in ascending order.
inline double sum_lanes_double(Vec v) {
  double s = 0;
  for (int i = 0; i < lanes; ++i) s += static_cast<double>(v[i]);
  return s;
}

// e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r (Cephes' coefficients), 2^n by exponent
// bits. Results below the smallest normal float are 0; overflow gives infinity; NaN stays NaN.
inline Vec exp(Vec x) {
  const Vec clamped = x > splat(89.0F) ? splat(89.0F) : x;
  const Vec magic = splat(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Vec shifted = fma(clamped, splat(1.44269504088896341F), magic);
  const Vec n = shifted - magic;
  Vec r = fma(n, splat(-0.693359375F), clamped);
  r = fma(n, splat(2.12194440e-4F), r);
  Vec p = splat(1.9875691500e-4F);
  p = fma(p, r, splat(1.3981999507e-3F));
  p = fma(p, r, splat(8.3334519073e-3F));
  p = fma(p, r, splat(4.1665795894e-2F));
  p = fma(p, r, splat(1.6666665459e-1F));
  p = fma(p, r, splat(5.0000001201e-1F));
  p = fma(p, r * r, r) + 1.0F;
  // n may be 128, beyond the exponent's range: scale by two halves.
  const IntVec exponent = reinterpret_cast<IntVec>(shifted) - reinterpret_cast<IntVec>(magic);
  const IntVec half = exponent >> 1;
  const Vec first = reinterpret_cast<Vec>((half + 127) << 23);
  const Vec second = reinterpret_cast<Vec>((exponent - half + 127) << 23);
  const Vec y = p * first * second;
  return x < splat(-87.336544F) ? Vec{} : y;
}

inline Vec sigmoid(Vec x) {
  return splat(1.0F) / (1.0F + exp(-x));
}

}  // namespace photon::cpu::PHOTON_ISA
