#include "kernels/group_rows.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

namespace {

void copy_row(const float* from, std::int64_t width, float* to) {
  std::memcpy(to, from, static_cast<std::size_t>(width) * sizeof(float));
}

// Sizes of the layout, from u [G, R, D], content [B, M*C, D] and the rows [G, S, D].
struct Layout {
  std::int64_t batch, groups, chunk, prefix, lookback, positions, width;
};

Layout layout_of(const Context& ctx, const ConstTensorView& u, const ConstTensorView& content,
                 const ConstTensorView& rows, std::int64_t lookback) {
  const DType dtype = activation_type(ctx, rows, "the decoder's rows");
  expect_rank(ctx, u, dtype, 3, "u");
  expect_rank(ctx, content, dtype, 3, "content");
  expect_rank(ctx, rows, dtype, 3, "the decoder's rows");
  expect_contiguous(u, "u");
  expect_contiguous(content, "content");
  expect_contiguous(rows, "the decoder's rows");
  PHOTON_EXPECT(lookback >= 0, "a lookback of {}", lookback);
  Layout l{};
  l.batch = content.size(0);
  l.prefix = u.size(1);
  l.lookback = lookback;
  l.positions = rows.size(1);
  l.width = rows.size(2);
  l.chunk = l.positions - l.prefix - lookback + 1;
  l.groups = l.batch == 0 ? 0 : u.size(0) / l.batch;
  PHOTON_EXPECT(l.chunk >= 1, "{} positions for {} prefix vectors and a lookback of {}", l.positions, l.prefix,
                lookback);
  expect_shape(u, {l.batch * l.groups, l.prefix, l.width}, "u");
  expect_shape(content, {l.batch, l.groups * l.chunk, l.width}, "content");
  expect_shape(rows, {l.batch * l.groups, l.positions, l.width}, "the decoder's rows");
  return l;
}

void expect_shift(const Context& ctx, const ConstTensorView& x, const ConstTensorView& start, DType start_type,
                  const ConstTensorView& c) {
  expect_rank(ctx, x, activation_type(ctx, x, "x"), 3, "x");
  expect_tensor(ctx, c, x.dtype(), x.shape(), "c");
  expect_tensor(ctx, start, start_type, {x.size(2)}, "start");
}

}  // namespace

void decoder_rows_forward(const Context& ctx, const ConstTensorView& u, const ConstTensorView& content,
                          std::int64_t lookback, const TensorView& out) {
  const Layout l = layout_of(ctx, u, content, out, lookback);
  if (ctx.space == Space::device) return cuda::decoder_rows_forward(ctx, u, content, lookback, out);
  if (out.numel() == 0) return;
  const float* prefix = l.prefix > 0 ? u.host<float>() : nullptr;
  const float* units = content.host<float>();
  float* to = out.host<float>();
#pragma omp parallel for schedule(static) if (out.numel() > 16384)
  for (std::int64_t g = 0; g < l.batch * l.groups; ++g) {
    float* row = to + g * l.positions * l.width;
    if (l.prefix > 0) copy_row(prefix + g * l.prefix * l.width, l.prefix * l.width, row);
    const float* sequence = units + g / l.groups * l.groups * l.chunk * l.width;
    const std::int64_t first = g % l.groups * l.chunk - l.lookback;  // the unit behind position R
    for (std::int64_t s = l.prefix; s < l.positions; ++s) {
      const std::int64_t unit = first + s - l.prefix;
      if (unit < 0) {
        std::fill_n(row + s * l.width, l.width, 0.0F);
      } else {
        copy_row(sequence + unit * l.width, l.width, row + s * l.width);
      }
    }
  }
}

void decoder_rows_backward(const Context& ctx, const ConstTensorView& dout, std::int64_t lookback, const TensorView& du,
                           const TensorView& dcontent) {
  expect_rank(ctx, dout, activation_type(ctx, dout, "dout"), 3, "dout");
  expect_rank(ctx, du, dout.dtype(), 3, "du");
  expect_contiguous(dout, "dout");
  expect_contiguous(du, "du");
  expect_shape(du, {dout.size(0), du.size(1), dout.size(2)}, "du");
  if (dcontent) layout_of(ctx, du, dcontent, dout, lookback);
  if (ctx.space == Space::device) return cuda::decoder_rows_backward(ctx, dout, lookback, du, dcontent);
  if (dout.numel() == 0) return;
  const std::int64_t prefix = du.size(1);
  const std::int64_t positions = dout.size(1);
  const std::int64_t width = dout.size(2);
  const float* grad = dout.host<float>();
  if (prefix > 0) {
    float* to = du.host<float>();
#pragma omp parallel for schedule(static) if (du.numel() > 16384)
    for (std::int64_t g = 0; g < dout.size(0); ++g) {
      copy_row(grad + g * positions * width, prefix * width, to + g * prefix * width);
    }
  }
  if (!dcontent) return;
  const Layout l = layout_of(ctx, du, dcontent, dout, lookback);
  float* to = dcontent.host<float>();
  // Each unit gathers what it gave, in a fixed order: as content of its own group, then as lookback of the next ones.
#pragma omp parallel for schedule(static) if (dcontent.numel() > 16384)
  for (std::int64_t n = 0; n < l.batch * l.groups * l.chunk; ++n) {
    const std::int64_t b = n / (l.groups * l.chunk);
    const std::int64_t unit = n % (l.groups * l.chunk);
    for (std::int64_t g = unit / l.chunk; g < l.groups && g * l.chunk - l.lookback <= unit; ++g) {
      const std::int64_t s = l.prefix + unit - (g * l.chunk - l.lookback);
      if (s >= l.positions) continue;  // the last unit of its group is never its content
      cpu::loops().add(grad + ((b * l.groups + g) * l.positions + s) * l.width, l.width, to + n * l.width);
    }
  }
}

void shift_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& start, const TensorView& c) {
  expect_shift(ctx, x, start, x.dtype(), c);
  if (ctx.space == Space::device) return cuda::shift_forward(ctx, x, start, c);
  if (x.numel() == 0) return;
  const float* from = x.host<float>();
  float* to = c.host<float>();
  for (std::int64_t b = 0; b < x.size(0); ++b) {
    copy_row(start.host<float>(), x.size(2), to + b * c.stride(0));
    for (std::int64_t m = 1; m < x.size(1); ++m) {
      copy_row(from + b * x.stride(0) + (m - 1) * x.stride(1), x.size(2), to + b * c.stride(0) + m * c.stride(1));
    }
  }
}

void shift_backward(const Context& ctx, const ConstTensorView& dc, const TensorView& dx, const TensorView& dstart) {
  expect_shift(ctx, dx, dstart, DType::f32, dc);
  if (ctx.space == Space::device) return cuda::shift_backward(ctx, dc, dx, dstart);
  if (dc.numel() == 0) return;
  const float* grad = dc.host<float>();
  float* to = dx.host<float>();
  for (std::int64_t b = 0; b < dc.size(0); ++b) {
    cpu::loops().add(grad + b * dc.stride(0), dc.size(2), dstart.host<float>());
    for (std::int64_t m = 1; m < dc.size(1); ++m) {
      cpu::loops().add(grad + b * dc.stride(0) + m * dc.stride(1), dc.size(2),
                       to + b * dx.stride(0) + (m - 1) * dx.stride(1));
    }
  }
}

}  // namespace photon
