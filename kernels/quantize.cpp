#include "kernels/quantize.hpp"

#include "kernels/checks.hpp"

namespace photon {

Quantized Quantized::rows(std::int64_t begin, std::int64_t count) const {
  return {format, values ? values.slice(0, begin, count) : values,
          transposed ? transposed.slice(1, begin, count) : transposed, scale};
}

bool quantizable(std::int64_t rows, std::int64_t columns) {
  return rows % 16 == 0 && columns % 16 == 0;
}

void quantize(const Context& ctx, const ConstTensorView& x, const Quantized& to, const ConstTensorView& largest) {
  PHOTON_EXPECT(ctx.space == Space::device, "8-bit floats in {} memory", name_of(ctx.space));
  expect_rank(ctx, x, DType::bf16, 2, "x");
  const std::int64_t m = x.size(0);
  const std::int64_t k = x.size(1);
  PHOTON_EXPECT(quantizable(m, k), "an 8-bit copy of {} (its dims are no multiples of 16)", x.shape().str());
  expect_tensor(ctx, to.scale, DType::f32, {1}, "scale");
  if (to.values) expect_tensor(ctx, to.values, DType::u8, {m, k}, "values");
  if (to.transposed) expect_tensor(ctx, to.transposed, DType::u8, {k, m}, "transposed");
  if (largest) expect_tensor(ctx, largest, DType::f32, {1}, "largest");
  cuda::quantize(ctx, x, to, largest);
}

}  // namespace photon
