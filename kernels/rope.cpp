#include "kernels/rope.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

void RopeTable::reserve(Space space, std::int64_t num_positions) {
  PHOTON_EXPECT(head_width_ > 0 && head_width_ % 2 == 0, "rope with heads of width {} (must be even)", head_width_);
  if (num_positions <= positions_ && cos_.view().space() == space) return;
  const std::int64_t positions = std::max(num_positions, positions_ == 0 ? num_positions : 2 * positions_);
  const std::int64_t half = head_width_ / 2;
  const Tensor cosines(Space::host, DType::f32, {positions, half}, "rope cosines");
  const Tensor sines(Space::host, DType::f32, {positions, half}, "rope sines");
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(theta_, -2.0 * static_cast<double>(i) / static_cast<double>(head_width_));
    for (std::int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      cosines.host<float>()[p * half + i] = static_cast<float>(std::cos(angle));
      sines.host<float>()[p * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  cos_ = Tensor(space, DType::f32, {positions, half}, "rope cosines");
  sin_ = Tensor(space, DType::f32, {positions, half}, "rope sines");
  copy(cosines.view(), cos_.view());
  copy(sines.view(), sin_.view());
  positions_ = positions;
}

void row_positions(const Context& ctx, const ConstTensorView& first, std::int64_t sequences, std::int64_t begin,
                   const TensorView& positions) {
  expect_rank(ctx, positions, DType::i32, 1, "positions");
  expect_contiguous(positions, "positions");
  if (first) expect_tensor(ctx, first, DType::i32, {sequences}, "first");
  PHOTON_EXPECT(sequences == 0 ? positions.numel() == 0 : positions.numel() % sequences == 0,
                "{} positions of {} sequences", positions.numel(), sequences);
  if (ctx.space == Space::device) return cuda::row_positions(ctx, first, sequences, begin, positions);
  if (positions.numel() == 0) return;
  const std::int64_t count = positions.numel() / sequences;
  std::int32_t* const to = positions.host<std::int32_t>();
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t start = begin + (first ? first.host<std::int32_t>()[s] : 0);
    for (std::int64_t i = 0; i < count; ++i) to[s * count + i] = static_cast<std::int32_t>(start + i);
  }
}

void rope(const Context& ctx, const RopeTable& table, const ConstTensorView& positions, const TensorView& x,
          Rotation rotation) {
  expect_rank(ctx, x, activation_type(ctx, x, "x"), 3, "x");
  expect_tensor(ctx, positions, DType::i32, {x.size(0)}, "positions");
  if (x.numel() == 0) return;
  const std::int64_t half = x.size(2) / 2;
  expect_tensor(ctx, table.cosines(), DType::f32, {table.positions(), half}, "the rope table");
  PHOTON_EXPECT(x.size(2) % 2 == 0, "rope with heads of width {} (must be even)", x.size(2));
  if (ctx.space == Space::device) return cuda::rope(ctx, table, positions, x, rotation);
  const std::int32_t* position = positions.host<std::int32_t>();
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    PHOTON_EXPECT(position[n] >= 0 && position[n] < table.positions(), "position {} in a rope table of {}", position[n],
                  table.positions());
  }
  const float* cosines = table.cosines().host<float>();
  const float* sines = table.sines().host<float>();
  const float sign = rotation == Rotation::forward ? 1.0F : -1.0F;
  float* data = x.host<float>();
#pragma omp parallel for schedule(static) if (x.numel() > 8192)
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    const std::int64_t at = position[n] * half;
    for (std::int64_t h = 0; h < x.size(1); ++h) {
      cpu::loops().rotate(data + n * x.stride(0) + h * x.stride(1), cosines + at, sines + at, half, sign);
    }
  }
}

}  // namespace photon
