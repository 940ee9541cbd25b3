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

namespace {

void expect_angles(const Context& ctx, const RopeTable& table, const TensorView& x) {
  const std::int64_t width = x.size(x.rank() - 1);
  PHOTON_EXPECT(width % 2 == 0, "rope with heads of width {} (must be even)", width);
  expect_tensor(ctx, table.cosines(), DType::f32, {table.positions(), width / 2}, "the rope table");
}

// Turns the heads [H, hd] at `row`, `head_stride` elements apart, to `position`.
void turn_heads(const RopeTable& table, std::int64_t position, float* row, std::int64_t num_heads,
                std::int64_t head_stride, std::int64_t width, Rotation rotation) {
  const std::int64_t half = width / 2;
  const float* const cosines = table.cosines().host<float>() + position * half;
  const float* const sines = table.sines().host<float>() + position * half;
  const float sign = rotation == Rotation::forward ? 1.0F : -1.0F;
  for (std::int64_t h = 0; h < num_heads; ++h) {
    cpu::loops().rotate(row + h * head_stride, cosines, sines, half, sign);
  }
}

}  // namespace

void rope(const Context& ctx, const RopeTable& table, const ConstTensorView& positions, const TensorView& x,
          Rotation rotation) {
  expect_rank(ctx, x, activation_type(ctx, x, "x"), 3, "x");
  expect_tensor(ctx, positions, DType::i32, {x.size(0)}, "positions");
  if (x.numel() == 0) return;
  expect_angles(ctx, table, x);
  if (ctx.space == Space::device) return cuda::rope(ctx, table, positions, x, rotation);
  const std::int32_t* position = positions.host<std::int32_t>();
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    PHOTON_EXPECT(position[n] >= 0 && position[n] < table.positions(), "position {} in a rope table of {}", position[n],
                  table.positions());
  }
  float* data = x.host<float>();
#pragma omp parallel for schedule(static) if (x.numel() > 8192)
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    turn_heads(table, position[n], data + n * x.stride(0), x.size(1), x.stride(1), x.size(2), rotation);
  }
}

void rope(const Context& ctx, const RopeTable& table, const TensorView& x, Rotation rotation) {
  expect_rank(ctx, x, activation_type(ctx, x, "x"), 4, "x");
  if (x.numel() == 0) return;
  expect_angles(ctx, table, x);
  PHOTON_EXPECT(x.size(1) <= table.positions(), "{} positions with a rope table of {}", x.size(1), table.positions());
  if (ctx.space == Space::device) return cuda::rope(ctx, table, x, rotation);
  float* data = x.host<float>();
#pragma omp parallel for schedule(static) if (x.numel() > 8192)
  for (std::int64_t row = 0; row < x.size(0) * x.size(1); ++row) {
    const std::int64_t b = row / x.size(1);
    const std::int64_t n = row % x.size(1);
    turn_heads(table, n, data + b * x.stride(0) + n * x.stride(1), x.size(2), x.stride(2), x.size(3), rotation);
  }
}

}  // namespace photon
