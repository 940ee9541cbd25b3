#include "kernels/elementwise.hpp"

#include <algorithm>
#include <array>

#include "kernels/checks.hpp"
#include "tensor/half.hpp"

namespace photon {

namespace {

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16;
}

float value(float x) {
  return x;
}
float value(bfloat16 x) {
  return to_float(x);
}
void assign(float& to, float x) {
  to = x;
}
void assign(bfloat16& to, float x) {
  to = to_bfloat16(x);
}

// Shape and strides padded on the left to four dims.
struct Four {
  std::array<std::int64_t, 4> size{1, 1, 1, 1};
  std::array<std::int64_t, 4> from{0, 0, 0, 0};
  std::array<std::int64_t, 4> to{0, 0, 0, 0};
};

Four padded(const ConstTensorView& from, const ConstTensorView& to) {
  Four f;
  for (int i = 0; i < from.rank(); ++i) {
    const auto at = static_cast<std::size_t>(4 - from.rank() + i);
    f.size[at] = from.size(i);
    f.from[at] = from.stride(i);
    f.to[at] = to.stride(i);
  }
  return f;
}

template <class From, class To>
void copy_as(const ConstTensorView& from, const TensorView& to, bool accumulate) {
  const From* source = from.host<From>();
  To* target = to.host<To>();
  const Four f = padded(from, to);
  const std::int64_t rows = f.size[0] * f.size[1] * f.size[2];
#pragma omp parallel for schedule(static) if (from.numel() > 16384)
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t a = r / (f.size[1] * f.size[2]);
    const std::int64_t b = r / f.size[2] % f.size[1];
    const std::int64_t c = r % f.size[2];
    const From* s = source + a * f.from[0] + b * f.from[1] + c * f.from[2];
    To* t = target + a * f.to[0] + b * f.to[1] + c * f.to[2];
    for (std::int64_t i = 0; i < f.size[3]; ++i) {
      assign(t[i], accumulate ? value(t[i]) + value(s[i]) : value(s[i]));
    }
  }
}

}  // namespace

void fill(const Context& ctx, const TensorView& x, float number) {
  PHOTON_EXPECT(is_float(x.dtype()), "fill of a {} tensor", name_of(x.dtype()));
  expect_rank(ctx, x, x.dtype(), x.rank(), "x");
  expect_contiguous(x, "x");
  if (ctx.space == Space::device) return cuda::fill(ctx, x, number);
  if (x.numel() == 0) return;
  if (x.dtype() == DType::f32) {
    std::fill_n(x.host<float>(), x.numel(), number);
  } else {
    std::fill_n(x.host<bfloat16>(), x.numel(), to_bfloat16(number));
  }
}

void copy_elements(const Context& ctx, const ConstTensorView& from, const TensorView& to, Write write) {
  PHOTON_EXPECT(is_float(from.dtype()) && is_float(to.dtype()), "copy_elements from {} to {}", name_of(from.dtype()),
                name_of(to.dtype()));
  expect_rank(ctx, from, from.dtype(), from.rank(), "from");
  expect_tensor(ctx, to, to.dtype(), from.shape(), "to");
  if (ctx.space == Space::device) return cuda::copy_elements(ctx, from, to, write);
  if (from.numel() == 0) return;
  const bool accumulate = write == Write::accumulate;
  const bool from_f32 = from.dtype() == DType::f32;
  if (to.dtype() == DType::f32) {
    from_f32 ? copy_as<float, float>(from, to, accumulate) : copy_as<bfloat16, float>(from, to, accumulate);
  } else {
    from_f32 ? copy_as<float, bfloat16>(from, to, accumulate) : copy_as<bfloat16, bfloat16>(from, to, accumulate);
  }
}

void scale(const Context& ctx, const TensorView& x, float factor) {
  expect_rank(ctx, x, DType::f32, x.rank(), "x");
  expect_contiguous(x, "x");
  if (ctx.space == Space::device) return cuda::scale(ctx, x, factor);
  if (x.numel() == 0) return;
  float* data = x.host<float>();
#pragma omp parallel for simd schedule(static) if (x.numel() > 65536)
  for (std::int64_t i = 0; i < x.numel(); ++i) data[i] *= factor;
}

}  // namespace photon
