#include "kernels/attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/checks.hpp"
#include "kernels/cpu/loops.hpp"

namespace photon {

namespace {

void expect_stream(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v,
                   std::int64_t window) {
  const DType dtype = activation_type(ctx, q, "q");
  expect_rank(ctx, q, dtype, 4, "q");
  expect_rank(ctx, k, dtype, 4, "k");
  expect_shape(k, {q.size(0), q.size(1), k.size(2), q.size(3)}, "k");
  expect_tensor(ctx, v, dtype, k.shape(), "v");
  PHOTON_EXPECT(k.size(2) > 0 && q.size(2) % k.size(2) == 0, "{} query heads for {} key heads", q.size(2), k.size(2));
  PHOTON_EXPECT(window >= 0, "an attention window of {}", window);
}

float score_scale(std::int64_t head_width) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_width)));
}

}  // namespace

void stream_attention_forward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                              const ConstTensorView& v, std::int64_t window, const TensorView& out,
                              const TensorView& lse) {
  expect_stream(ctx, q, k, v, window);
  expect_tensor(ctx, out, q.dtype(), q.shape(), "out");
  if (lse) {
    expect_tensor(ctx, lse, DType::f32, {q.size(0), q.size(2), q.size(1)}, "lse");
    expect_contiguous(lse, "lse");
  }
  if (ctx.space == Space::device) return cuda::stream_attention_forward(ctx, q, k, v, window, out, lse);
  if (out.numel() == 0) return;
  const std::int64_t length = q.size(1);
  const std::int64_t heads = q.size(2);
  const std::int64_t sharing = heads / k.size(2);
  const std::int64_t tiles = (length + cpu::attention_queries - 1) / cpu::attention_queries;
  // The last tiles see the most keys: they go first.
#pragma omp parallel for schedule(dynamic) if (q.numel() * length > 32768)
  for (std::int64_t task = 0; task < q.size(0) * heads * tiles; ++task) {
    const std::int64_t first = (tiles - 1 - task / (q.size(0) * heads)) * cpu::attention_queries;
    const std::int64_t b = task / heads % q.size(0);
    const std::int64_t h = task % heads;
    cpu::AttentionQueries t{};
    t.q = q.host<float>() + b * q.stride(0) + first * q.stride(1) + h * q.stride(2);
    t.q_stride = q.stride(1);
    t.out = out.host<float>() + b * out.stride(0) + first * out.stride(1) + h * out.stride(2);
    t.out_stride = out.stride(1);
    t.lse = lse ? lse.host<float>() + (b * heads + h) * length + first : nullptr;
    t.count = std::min(cpu::attention_queries, length - first);
    t.position = first;
    t.position_step = 1;
    t.k = k.host<float>() + b * k.stride(0) + h / sharing * k.stride(2);
    t.v = v.host<float>() + b * v.stride(0) + h / sharing * v.stride(2);
    t.k_stride = k.stride(1);
    t.v_stride = v.stride(1);
    t.capacity = length;
    t.window = window;
    t.head_width = q.size(3);
    t.scale = score_scale(q.size(3));
    cpu::loops().attend(t, cpu::thread_scratch(cpu::attention_scratch(q.size(3))));
  }
}

void stream_attention_backward(const Context& ctx, const ConstTensorView& q, const ConstTensorView& k,
                               const ConstTensorView& v, const ConstTensorView& out, const ConstTensorView& lse,
                               const ConstTensorView& dout, std::int64_t window, const TensorView& dq,
                               const TensorView& dk, const TensorView& dv, const RopeTable* table) {
  expect_stream(ctx, q, k, v, window);
  for (const ConstTensorView& x : {out, dout, ConstTensorView(dq)}) {
    expect_tensor(ctx, x, q.dtype(), q.shape(), "out, dout or dq");
  }
  expect_tensor(ctx, dk, q.dtype(), k.shape(), "dk");
  expect_tensor(ctx, dv, q.dtype(), k.shape(), "dv");
  expect_tensor(ctx, lse, DType::f32, {q.size(0), q.size(2), q.size(1)}, "lse");
  expect_contiguous(lse, "lse");
  if (table != nullptr) {
    expect_tensor(ctx, table->cosines(), DType::f32, {table->positions(), q.size(3) / 2}, "the rope table");
    PHOTON_EXPECT(q.size(3) % 2 == 0 && q.size(1) <= table->positions(),
                  "{} positions of width {} with a rope table of {}", q.size(1), q.size(3), table->positions());
  }
  if (ctx.space == Space::device)
    return cuda::stream_attention_backward(ctx, q, k, v, out, lse, dout, window, dq, dk, dv, table);
  if (q.numel() == 0) return;
  const std::int64_t length = q.size(1);
  const std::int64_t key_heads = k.size(2);
  const std::int64_t sharing = q.size(2) / key_heads;
#pragma omp parallel for schedule(dynamic) if (q.numel() * length > 32768)
  for (std::int64_t task = 0; task < q.size(0) * key_heads; ++task) {
    const std::int64_t b = task / key_heads;
    const std::int64_t j = task % key_heads;
    const auto query_side = [&](const auto& x) {
      return x.template host<float>() + b * x.stride(0) + j * sharing * x.stride(2);
    };
    const auto key_side = [&](const auto& x) { return x.template host<float>() + b * x.stride(0) + j * x.stride(2); };
    cpu::AttentionGradient t{};
    t.length = length;
    t.head_width = q.size(3);
    t.window = window;
    t.query_heads = sharing;
    t.scale = score_scale(q.size(3));
    t.q = query_side(q);
    t.out = query_side(out);
    t.dout = query_side(dout);
    t.dq = query_side(dq);
    t.lse = lse.host<float>() + (b * q.size(2) + j * sharing) * length;
    t.k = key_side(k);
    t.v = key_side(v);
    t.dk = key_side(dk);
    t.dv = key_side(dv);
    t.q_stride = q.stride(1);
    t.out_stride = out.stride(1);
    t.dout_stride = dout.stride(1);
    t.dq_stride = dq.stride(1);
    t.k_stride = k.stride(1);
    t.v_stride = v.stride(1);
    t.dk_stride = dk.stride(1);
    t.dv_stride = dv.stride(1);
    t.q_head = q.stride(2);
    t.out_head = out.stride(2);
    t.dout_head = dout.stride(2);
    t.lse_head = length;
    t.dq_head = dq.stride(2);
    cpu::loops().attend_backward(t, cpu::thread_scratch(cpu::attention_gradient_scratch(q.size(3), sharing * length)));
  }
  if (table == nullptr) return;
  rope(ctx, *table, dq, Rotation::backward);
  rope(ctx, *table, dk, Rotation::backward);
}

}  // namespace photon
