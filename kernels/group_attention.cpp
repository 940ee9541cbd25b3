#include "kernels/group_attention.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

namespace {

void expect_group(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v) {
  const DType dtype = activation_type(ctx, q, "q");
  expect_rank(ctx, q, dtype, 4, "q");
  expect_rank(ctx, k, dtype, 4, "k");
  expect_shape(k, {q.size(0), k.size(1), k.size(2), q.size(3)}, "k");
  expect_tensor(ctx, v, dtype, k.shape(), "v");
  PHOTON_EXPECT(q.size(1) <= k.size(1), "{} queries for {} positions", q.size(1), k.size(1));
  PHOTON_EXPECT(k.size(1) <= max_group_positions, "groups of {} positions (at most {})", k.size(1),
                max_group_positions);
  PHOTON_EXPECT(k.size(2) > 0 && q.size(2) % k.size(2) == 0, "{} query heads for {} key heads", q.size(2), k.size(2));
}

void expect_table(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const RopeTable* table) {
  if (table == nullptr || k.numel() == 0) return;
  PHOTON_EXPECT(q.size(3) % 2 == 0, "rope with heads of width {} (must be even)", q.size(3));
  PHOTON_EXPECT(table->positions() >= k.size(1), "groups of {} positions with a rope table of {}", k.size(1),
                table->positions());
  expect_tensor(ctx, table->cosines(), DType::f32, {table->positions(), q.size(3) / 2}, "the rope table");
}

// Turns `count` rows at positions first, first + 1, ... by their angles, or back.
void turn(const RopeTable& table, std::int64_t first, std::int64_t count, float* x, std::int64_t stride,
          std::int64_t width, float sign) {
  const std::int64_t half = width / 2;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t angle = (first + i) * half;
    cpu::loops().rotate(x + i * stride, table.cosines().host<float>() + angle, table.sines().host<float>() + angle,
                        half, sign);
  }
}

// One (group, query head).
cpu::GroupHead head_of(const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, std::int64_t g,
                       std::int64_t h) {
  const std::int64_t key_head = h / (q.size(2) / k.size(2));
  cpu::GroupHead t{};
  t.positions = k.size(1);
  t.queries = q.size(1);
  t.head_width = q.size(3);
  t.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(3))));
  t.q = q.host<float>() + g * q.stride(0) + h * q.stride(2);
  t.k = k.host<float>() + g * k.stride(0) + key_head * k.stride(2);
  t.v = v.host<float>() + g * v.stride(0) + key_head * v.stride(2);
  t.q_stride = q.stride(1);
  t.k_stride = k.stride(1);
  t.v_stride = v.stride(1);
  return t;
}

// Floats that rotated() writes.
std::int64_t rotated_size(const ConstTensorView& k, const RopeTable* table) {
  return table == nullptr ? 0 : 2 * k.size(1) * k.size(3);
}

// The same head with rotated copies of its q and k.
cpu::GroupHead rotated(const cpu::GroupHead& head, const RopeTable* table, float* copies) {
  if (table == nullptr) return head;
  cpu::GroupHead t = head;
  const auto copy_rows = [&](const float* from, std::int64_t stride, std::int64_t count, float* to) {
    for (std::int64_t i = 0; i < count; ++i) std::copy_n(from + i * stride, t.head_width, to + i * t.head_width);
    turn(*table, t.positions - count, count, to, t.head_width, t.head_width, 1.0F);
  };
  float* const queries = copies + t.positions * t.head_width;
  copy_rows(head.k, head.k_stride, t.positions, copies);
  copy_rows(head.q, head.q_stride, t.queries, queries);
  t.k = copies;
  t.q = queries;
  t.k_stride = t.head_width;
  t.q_stride = t.head_width;
  return t;
}

void clear_rows(const TensorView& x, std::int64_t g, std::int64_t h) {
  float* data = x.host<float>() + g * x.stride(0) + h * x.stride(2);
  for (std::int64_t s = 0; s < x.size(1); ++s) std::fill_n(data + s * x.stride(1), x.size(3), 0.0F);
}

// Gradients of rotated rows become those of the rows as they came; the rows are the last of `positions`.
void turn_back(const RopeTable& table, const TensorView& x, std::int64_t g, std::int64_t positions) {
  for (std::int64_t h = 0; h < x.size(2); ++h) {
    turn(table, positions - x.size(1), x.size(1), x.host<float>() + g * x.stride(0) + h * x.stride(2), x.stride(1),
         x.size(3), -1.0F);
  }
}

}  // namespace

void group_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                             const ConstTensorView& v, const TensorView& out, const RopeTable* table) {
  expect_group(ctx, q, k, v);
  expect_table(ctx, q, k, table);
  expect_tensor(ctx, out, q.dtype(), q.shape(), "out");
  if (ctx.space == Space::device) return cuda::group_attention_forward(ctx, q, k, v, out, table);
  if (out.numel() == 0) return;
  static_assert(max_group_positions <= cpu::attention_keys);
  constexpr std::int64_t scores = cpu::attention_keys * cpu::attention_keys;
#pragma omp parallel for schedule(static) if (q.numel() > 4096)
  for (std::int64_t g = 0; g < q.size(0); ++g) {
    float* scratch = cpu::thread_scratch(scores + rotated_size(k, table));
    for (std::int64_t h = 0; h < q.size(2); ++h) {
      cpu::loops().group_forward(rotated(head_of(q, k, v, g, h), table, scratch + scores),
                                 out.host<float>() + g * out.stride(0) + h * out.stride(2), out.stride(1), scratch);
    }
  }
}

void group_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, const ConstTensorView& dout, const TensorView& dq,
                              const TensorView& dk, const TensorView& dv, const RopeTable* table) {
  expect_group(ctx, q, k, v);
  expect_table(ctx, q, k, table);
  expect_tensor(ctx, dout, q.dtype(), q.shape(), "dout");
  expect_tensor(ctx, dq, q.dtype(), q.shape(), "dq");
  expect_tensor(ctx, dk, q.dtype(), k.shape(), "dk");
  expect_tensor(ctx, dv, q.dtype(), k.shape(), "dv");
  if (ctx.space == Space::device) return cuda::group_attention_backward(ctx, q, k, v, dout, dq, dk, dv, table);
  if (k.numel() == 0) return;
  constexpr std::int64_t scores = 2 * cpu::attention_keys * cpu::attention_keys;
#pragma omp parallel for schedule(static) if (k.numel() > 4096)
  for (std::int64_t g = 0; g < k.size(0); ++g) {
    float* scratch = cpu::thread_scratch(scores + rotated_size(k, table));
    for (std::int64_t h = 0; h < k.size(2); ++h) {
      clear_rows(dk, g, h);
      clear_rows(dv, g, h);
    }
    if (q.numel() == 0) continue;
    for (std::int64_t h = 0; h < q.size(2); ++h) {
      const std::int64_t key_head = h / (q.size(2) / k.size(2));
      cpu::loops().group_backward(rotated(head_of(q, k, v, g, h), table, scratch + scores),
                                  dout.host<float>() + g * dout.stride(0) + h * dout.stride(2), dout.stride(1),
                                  dq.host<float>() + g * dq.stride(0) + h * dq.stride(2), dq.stride(1),
                                  dk.host<float>() + g * dk.stride(0) + key_head * dk.stride(2), dk.stride(1),
                                  dv.host<float>() + g * dv.stride(0) + key_head * dv.stride(2), dv.stride(1), scratch);
    }
    if (table != nullptr) {
      turn_back(*table, dq, g, k.size(1));
      turn_back(*table, dk, g, k.size(1));
    }
  }
}

}  // namespace photon
