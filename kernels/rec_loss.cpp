#include "kernels/rec_loss.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

namespace {

constexpr double smallest_product = 1e-12;  // of the norms, in the cosine

void expect_rec(const Context& ctx, const ConstTensorView& y, const ConstTensorView& x, const ConstTensorView& mask) {
  expect_rank(ctx, y, activation_type(ctx, y, "y"), 2, "y");
  expect_tensor(ctx, x, y.dtype(), y.shape(), "x");
  if (mask) expect_tensor(ctx, mask, DType::u8, {y.size(0)}, "mask");
}

bool counts(const ConstTensorView& mask, std::int64_t u) {
  return !mask || mask.host<std::uint8_t>()[u] != 0;
}

double distance_of(RecDistance distance, const float* y, const float* x, std::int64_t width) {
  if (distance == RecDistance::cosine) {
    const cpu::Dots d = cpu::loops().dots(y, x, width);
    const double product = std::sqrt(d.yy) * std::sqrt(d.xx);
    // Written so that NaN stays NaN.
    return 1.0 - d.yx / (product < smallest_product ? smallest_product : product);
  }
  double sum = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    const double e = static_cast<double>(y[i]) - static_cast<double>(x[i]);
    const double a = std::abs(e);
    sum += distance == RecDistance::mse ? e * e : (a < 1.0 ? 0.5 * e * e : a - 0.5);
  }
  return sum / static_cast<double>(width);
}

// dy += scale * d(distance)/dy; dx likewise unless null.
void add_gradient(RecDistance distance, const float* y, const float* x, std::int64_t width, double scale, float* dy,
                  float* dx) {
  if (distance == RecDistance::cosine) {
    const cpu::Dots d = cpu::loops().dots(y, x, width);
    const double product = std::sqrt(d.yy) * std::sqrt(d.xx);
    if (product < smallest_product) return;  // a vector of no direction; NaN goes on
    const double inverse = 1.0 / product;
    const double y_y = scale * d.yx * inverse / d.yy;  // the gradient's part along y, per unit of y
    const double x_x = scale * d.yx * inverse / d.xx;
    for (std::int64_t i = 0; i < width; ++i) {
      const double yi = static_cast<double>(y[i]);
      const double xi = static_cast<double>(x[i]);
      dy[i] += static_cast<float>(y_y * yi - scale * inverse * xi);
      if (dx != nullptr) dx[i] += static_cast<float>(x_x * xi - scale * inverse * yi);
    }
    return;
  }
  const double factor = scale / static_cast<double>(width);
  for (std::int64_t i = 0; i < width; ++i) {
    const double e = static_cast<double>(y[i]) - static_cast<double>(x[i]);
    const double slope = distance == RecDistance::mse ? 2.0 * e : (e > 1.0 ? 1.0 : (e < -1.0 ? -1.0 : e));
    dy[i] += static_cast<float>(factor * slope);
    if (dx != nullptr) dx[i] -= static_cast<float>(factor * slope);
  }
}

}  // namespace

double rec_loss_forward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                        const ConstTensorView& mask) {
  expect_rec(ctx, y, x, mask);
  if (ctx.space == Space::device) return cuda::rec_loss_forward(ctx, distance, y, x, mask);
  if (y.numel() == 0) return 0;
  const std::int64_t units = y.size(0);
  std::vector<double> each(static_cast<std::size_t>(units), 0.0);
  const float* a = y.host<float>();
  const float* b = x.host<float>();
#pragma omp parallel for schedule(static) if (y.numel() > 8192)
  for (std::int64_t u = 0; u < units; ++u) {
    if (!counts(mask, u)) continue;
    each[static_cast<std::size_t>(u)] = distance_of(distance, a + u * y.stride(0), b + u * x.stride(0), y.size(1));
  }
  double sum = 0;
  for (const double d : each) sum += d;
  return sum;
}

void add_rec_loss_forward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                          const ConstTensorView& mask, const TensorView& total) {
  expect_tensor(ctx, total, DType::f64, {1}, "total");
  if (ctx.space == Space::host) {
    *total.host<double>() += rec_loss_forward(ctx, distance, y, x, mask);
    return;
  }
  expect_rec(ctx, y, x, mask);
  cuda::add_rec_loss_forward(ctx, distance, y, x, mask, total);
}

void rec_loss_backward(const Context& ctx, RecDistance distance, const ConstTensorView& y, const ConstTensorView& x,
                       const ConstTensorView& mask, double scale, const TensorView& dy, const TensorView& dx) {
  expect_rec(ctx, y, x, mask);
  expect_tensor(ctx, dy, y.dtype(), y.shape(), "dy");
  if (dx) expect_tensor(ctx, dx, y.dtype(), y.shape(), "dx");
  if (ctx.space == Space::device) return cuda::rec_loss_backward(ctx, distance, y, x, mask, scale, dy, dx);
  if (y.numel() == 0) return;
  const float* a = y.host<float>();
  const float* b = x.host<float>();
  float* da = dy.host<float>();
  float* db = dx ? dx.host<float>() : nullptr;
#pragma omp parallel for schedule(static) if (y.numel() > 8192)
  for (std::int64_t u = 0; u < y.size(0); ++u) {
    if (!counts(mask, u)) continue;
    add_gradient(distance, a + u * y.stride(0), b + u * x.stride(0), y.size(1), scale, da + u * dy.stride(0),
                 db == nullptr ? nullptr : db + u * dx.stride(0));
  }
}

}  // namespace photon
