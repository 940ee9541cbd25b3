// Row-wise and elementwise loops of one instruction set.
#pragma once

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/simd.hpp"

namespace photon::cpu::PHOTON_ISA {

inline float rms_norm_row(const float* x, const float* w, double eps, std::int64_t width, float* y) {
  Vec squares{};
  for (std::int64_t i = 0; i < width; i += lanes) {
    const Vec v = load_upto(x + i, width - i);
    squares = fma(v, v, squares);
  }
  const double mean = static_cast<double>(sum_lanes(squares)) / static_cast<double>(width);
  const float rstd = static_cast<float>(1.0 / __builtin_sqrt(mean + eps));
  for (std::int64_t i = 0; i < width; i += lanes) {
    store_upto(y + i, load_upto(x + i, width - i) * rstd * load_upto(w + i, width - i), width - i);
  }
  return rstd;
}

inline void rms_norm_backward_row(const float* dy, const float* x, const float* w, float rstd, std::int64_t width,
                                  const float* before, float* dx, float* y, float* dw) {
  Vec dot{};
  for (std::int64_t i = 0; i < width; i += lanes) {
    dot = fma(load_upto(dy + i, width - i) * load_upto(w + i, width - i), load_upto(x + i, width - i), dot);
  }
  const float mean = sum_lanes(dot) * rstd * rstd / static_cast<float>(width);
  for (std::int64_t i = 0; i < width; i += lanes) {
    const std::int64_t here = width - i;
    const Vec g = load_upto(dy + i, here);
    const Vec v = load_upto(x + i, here);
    store_upto(dw + i, fma(g, v * rstd, load_upto(dw + i, here)), here);
    const Vec weight = load_upto(w + i, here);
    Vec d = (g * weight - v * mean) * rstd;
    if (before != nullptr) d += load_upto(before + i, here);
    if (y != nullptr) store_upto(y + i, v * rstd * weight, here);
    store_upto(dx + i, d, here);
  }
}

inline void swiglu_forward(const float* gate, const float* up, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; i += lanes) {
    const Vec g = load_upto(gate + i, n - i);
    store_upto(out + i, g * sigmoid(g) * load_upto(up + i, n - i), n - i);
  }
}

inline void swiglu_backward(const float* dout, const float* gate, const float* up, std::int64_t n, float* dgate,
                            float* dup) {
  for (std::int64_t i = 0; i < n; i += lanes) {
    const std::int64_t here = n - i;
    const Vec d = load_upto(dout + i, here);
    const Vec g = load_upto(gate + i, here);
    const Vec u = load_upto(up + i, here);
    const Vec s = sigmoid(g);
    store_upto(dgate + i, d * u * s * (1.0F + g * (1.0F - s)), here);
    store_upto(dup + i, d * g * s, here);
  }
}

inline void rotate(float* x, const float* cosines, const float* sines, std::int64_t half, float sign) {
  for (std::int64_t i = 0; i < half; i += lanes) {
    const std::int64_t here = half - i;
    const Vec c = load_upto(cosines + i, here);
    const Vec s = load_upto(sines + i, here) * sign;
    const Vec a = load_upto(x + i, here);
    const Vec b = load_upto(x + half + i, here);
    store_upto(x + i, a * c - b * s, here);
    store_upto(x + half + i, b * c + a * s, here);
  }
}

inline void add(const float* from, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; i += lanes) {
    store_upto(to + i, load_upto(to + i, n - i) + load_upto(from + i, n - i), n - i);
  }
}

inline void add_scaled(const float* from, float factor, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; i += lanes) {
    store_upto(to + i, fma(splat(factor), load_upto(from + i, n - i), load_upto(to + i, n - i)), n - i);
  }
}

inline float largest(const float* x, std::int64_t n) {
  Vec m = splat(-std::numeric_limits<float>::infinity());
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) m = max(m, load(x + i));
  float result = max_lanes(m);
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

inline double sum_exp(const float* x, float shift, float factor, std::int64_t n) {
  constexpr std::int64_t block = 64 * lanes;  // summed in float, the blocks in double
  double total = 0;
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t end = n - begin < block ? n : begin + block;
    Vec sum{};
    std::int64_t i = begin;
    for (; i + lanes <= end; i += lanes) sum += exp((load(x + i) - shift) * factor);
    total += sum_lanes_double(sum);
    if (i < end) {
      const Vec e = exp((load_first(x + i, end - i) - shift) * factor);
      for (std::int64_t j = 0; j < end - i; ++j) total += static_cast<double>(e[j]);
    }
  }
  return total;
}

inline void write_exp(const float* x, float shift, float factor, float scale, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; i += lanes) {
    store_upto(to + i, exp((load_upto(x + i, n - i) - shift) * factor) * scale, n - i);
  }
}

inline double sum_of_squares(const float* x, std::int64_t n) {
  double sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int j = 0; j < lanes; ++j) {
      const double v = static_cast<double>(x[i + j]);
      sums[j] += v * v;
    }
  }
  double total = 0;
  for (const double s : sums) total += s;
  for (; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

inline Dots dots(const float* y, const float* x, std::int64_t n) {
  double yx[lanes] = {};
  double yy[lanes] = {};
  double xx[lanes] = {};
  for (std::int64_t i = 0; i < n; i += lanes) {
    const int here = static_cast<int>(n - i < lanes ? n - i : lanes);
    for (int j = 0; j < here; ++j) {
      const double a = static_cast<double>(y[i + j]);
      const double b = static_cast<double>(x[i + j]);
      yx[j] += a * b;
      yy[j] += a * a;
      xx[j] += b * b;
    }
  }
  Dots total{0, 0, 0};
  for (int j = 0; j < lanes; ++j) {
    total.yx += yx[j];
    total.yy += yy[j];
    total.xx += xx[j];
  }
  return total;
}

inline void adamw(const AdamWFactors& f, std::int64_t n, float* p, const float* g, float* m, float* v) {
  for (std::int64_t i = 0; i < n; i += lanes) {
    const std::int64_t here = n - i;
    const Vec grad = load_upto(g + i, here) * f.gradient_scale;
    const Vec m_new = fma(splat(f.beta1), load_upto(m + i, here), grad * f.rest1);
    const Vec v_new = fma(splat(f.beta2), load_upto(v + i, here), grad * grad * f.rest2);
    const Vec update = m_new * f.step_size / (sqrt(v_new * f.v_scale) + f.eps);
    store_upto(p + i, load_upto(p + i, here) * f.decay - update, here);
    store_upto(m + i, m_new, here);
    store_upto(v + i, v_new, here);
  }
}

}  // namespace photon::cpu::PHOTON_ISA
