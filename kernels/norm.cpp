#include "kernels/norm.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

namespace {

void expect_norm(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const ConstTensorView& y,
                 const ConstTensorView& rstd) {
  expect_rank(ctx, x, activation_type(ctx, x, "x"), 2, "x");
  expect_tensor(ctx, w, DType::f32, {x.size(1)}, "w");
  expect_tensor(ctx, y, x.dtype(), x.shape(), "y");
  if (rstd) expect_tensor(ctx, rstd, DType::f32, {x.size(0)}, "rstd");
}

}  // namespace

void rms_norm_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, double eps,
                      const TensorView& y, const TensorView& rstd, const TensorView& largest) {
  expect_norm(ctx, x, w, y, rstd);
  expect_largest(ctx, largest);
  if (ctx.space == Space::device) return cuda::rms_norm_forward(ctx, x, w, eps, y, rstd, largest);
  const std::int64_t rows = x.size(0);
  const std::int64_t width = x.size(1);
  if (x.numel() == 0) return;
  const float* from = x.host<float>();
  const float* weight = w.host<float>();
  float* to = y.host<float>();
  float* scale = rstd ? rstd.host<float>() : nullptr;
#pragma omp parallel for schedule(static) if (rows * width > 8192)
  for (std::int64_t n = 0; n < rows; ++n) {
    const float r = cpu::loops().rms_norm_row(from + n * x.stride(0), weight, eps, width, to + n * y.stride(0));
    if (scale != nullptr) scale[n] = r;
  }
}

void rms_norm_backward(const Context& ctx, const ConstTensorView& dy, const ConstTensorView& x,
                       const ConstTensorView& w, const ConstTensorView& rstd, const ConstTensorView& before,
                       const TensorView& dx, const TensorView& dw, const TensorView& y, const TensorView& largest) {
  expect_norm(ctx, x, w, dy, {});
  expect_tensor(ctx, rstd, DType::f32, {x.size(0)}, "rstd");
  expect_tensor(ctx, dx, x.dtype(), x.shape(), "dx");
  expect_tensor(ctx, dw, DType::f32, {x.size(1)}, "dw");
  if (before) expect_tensor(ctx, before, x.dtype(), x.shape(), "before");
  if (y) expect_tensor(ctx, y, x.dtype(), x.shape(), "y");
  expect_largest(ctx, largest);
  if (ctx.space == Space::device) return cuda::rms_norm_backward(ctx, dy, x, w, rstd, before, dx, dw, y, largest);
  const std::int64_t rows = x.size(0);
  const std::int64_t width = x.size(1);
  if (x.numel() == 0) return;
  const float* grad = dy.host<float>();
  const float* from = x.host<float>();
  const float* weight = w.host<float>();
  const float* scale = rstd.host<float>();
  const float* added = before ? before.host<float>() : nullptr;
  float* to = dx.host<float>();
  float* again = y ? y.host<float>() : nullptr;
  // The weight's gradient is summed in blocks of rows that depend on the number of rows alone, then over the blocks.
  const std::int64_t block = std::max<std::int64_t>(64, (rows + 255) / 256);
  const std::int64_t blocks = (rows + block - 1) / block;
  std::vector<float> partial(static_cast<std::size_t>(blocks * width), 0.0F);
#pragma omp parallel for schedule(static) if (rows * width > 8192)
  for (std::int64_t b = 0; b < blocks; ++b) {
    for (std::int64_t n = b * block; n < std::min(rows, (b + 1) * block); ++n) {
      cpu::loops().rms_norm_backward_row(grad + n * dy.stride(0), from + n * x.stride(0), weight, scale[n], width,
                                         added == nullptr ? nullptr : added + n * before.stride(0),
                                         to + n * dx.stride(0), again == nullptr ? nullptr : again + n * y.stride(0),
                                         partial.data() + b * width);
    }
  }
  for (std::int64_t b = 0; b < blocks; ++b) cpu::loops().add(partial.data() + b * width, width, dw.host<float>());
}

}  // namespace photon
