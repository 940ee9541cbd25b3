#include "model/cached_stack.hpp"

#include <algorithm>

#include "kernels/attention.hpp"
#include "kernels/attention_step.hpp"
#include "kernels/few_rows.hpp"
#include "kernels/linear.hpp"
#include "kernels/norm.hpp"
#include "kernels/swiglu.hpp"

namespace photon {
namespace {

// [n P, W] -> the heads [n, P, H, hd] that begin at column `begin`.
TensorView heads(const TensorView& x, std::int64_t sequences, std::int64_t begin, std::int64_t num_heads,
                 std::int64_t head_width) {
  return x.slice(1, begin, num_heads * head_width).split(1, num_heads).split(0, sequences);
}

// The last position of each of n sequences in [n P, D], as rows [n, D].
ConstTensorView last_rows(const ConstTensorView& x, std::int64_t sequences) {
  const ConstTensorView positions = x.split(0, sequences);
  return positions.slice(1, positions.size(1) - 1, 1).merge(1);
}

}  // namespace

void step_linear(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y) {
  if (few_rows_apply(ctx, x.size(0), w)) {
    few_linear(ctx, x, w, {}, y);
  } else {
    linear_forward(ctx, x, w, y);
  }
}

KvCache CachedStack::make_cache(Space space, DType dtype, std::int64_t slots, std::int64_t capacity) const {
  KvCache cache;
  const Shape shape{slots, capacity, config_.kv_heads, head_width()};
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    cache.k.emplace_back(space, dtype, shape, "cached keys");
    cache.v.emplace_back(space, dtype, shape, "cached values");
  }
  return cache;
}

std::int64_t CachedStack::layer_bytes(std::int64_t rows, std::int64_t outputs, std::int64_t element) const {
  // qkv and, where trimmed, q; h; the carried stream; attention and, where trimmed, its sum; gate, up and their
  // product.
  return arena_bytes(rows * (width_ + 2 * kv_width()), element) + arena_bytes(outputs * width_, element) +
         2 * arena_bytes(rows * width_, element) + 2 * arena_bytes(outputs * width_, element) +
         arena_bytes(outputs * 2 * config_.ffn, element) + arena_bytes(outputs * config_.ffn, element);
}

std::int64_t CachedStack::step_bytes(std::int64_t rows, std::int64_t positions, std::int64_t element) const {
  return layer_bytes(rows * positions, rows * positions, element);
}

std::int64_t CachedStack::prefill_bytes(std::int64_t rows, std::int64_t positions, std::int64_t element) const {
  return layer_bytes(rows * positions, rows * positions, element);
}

void CachedStack::close_layer(const Context& ctx, Arena& arena, const LayerTensors& w, const ConstTensorView& attn,
                              const ConstTensorView& residual, const ConstTensorView& norm, const TensorView& next,
                              const TensorView& h) const {
  const ArenaScope scope(arena);
  const DType dtype = attn.dtype();
  const std::int64_t m = attn.size(0);
  const TensorView gate_up = arena.allocate(dtype, {m, 2 * config_.ffn});
  const TensorView act = arena.allocate(dtype, {m, config_.ffn});
  linear_forward(ctx, attn, w.o, next, residual);
  rms_norm_forward(ctx, next, w.mlp_norm, norm_eps_, h, TensorView());
  linear_forward(ctx, h, w.gate_up, gate_up);
  swiglu_forward(ctx, gate_up, act);
  linear_forward(ctx, act, w.down, next, next);
  rms_norm_forward(ctx, next, norm, norm_eps_, h, TensorView());
}

void CachedStack::step(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x,
                       KvCache& cache, const ConstTensorView& slot, const ConstTensorView& first,
                       const TensorView& out) const {
  const std::int64_t n = slot.size(0);
  const std::int64_t rows = x.size(0);
  PHOTON_EXPECT(n > 0 && rows % n == 0 && (out.size(0) == n || out.size(0) == rows),
                "{} rows and {} outputs of {} sequences", rows, out.size(0), n);
  const DType dtype = x.dtype();
  const std::size_t num_layers = weights.layers.size();
  const std::int64_t hd = head_width();
  const ArenaScope scope(arena);
  const TensorView h_all = arena.allocate(dtype, {rows, width_});
  const TensorView carried = arena.allocate(dtype, {rows, width_});
  ConstTensorView stream = x;
  const bool few =
      few_rows_apply(ctx, rows, weights.layers[0].qkv) && few_rows_apply(ctx, rows, weights.layers[0].down);
  if (!few) rms_norm_forward(ctx, stream, weights.layers[0].attn_norm, norm_eps_, h_all, TensorView());
  for (std::size_t i = 0; i < num_layers; ++i) {
    const LayerTensors& w = weights.layers[i];
    const bool last = i + 1 == num_layers;
    const bool trimmed = last && out.size(0) < rows;
    const std::int64_t m = trimmed ? n : rows;
    const ArenaScope layer_scope(arena);
    const TensorView qkv = arena.allocate(dtype, {rows, (trimmed ? 0 : width_) + 2 * kv_width()});
    const TensorView attn = arena.allocate(dtype, {m, width_});
    AttentionStep step;
    step.slot = slot;
    step.first = first;
    step.cache_k = cache.k[i];
    step.cache_v = cache.v[i];
    step.window = config_.window;
    step.local = kind_ == AttentionKind::group;
    step.out = heads(attn, n, 0, config_.heads, hd);
    std::int64_t kv_begin = 0;
    ConstTensorView residual = stream;
    TensorView sum = carried;
    if (trimmed) {
      // Nobody reads the earlier positions' outputs: they give keys and values only.
      const TensorView q = arena.allocate(dtype, {m, width_});
      const TensorView kv_weight = w.qkv.slice(0, width_, 2 * kv_width());
      const TensorView q_weight = w.qkv.slice(0, 0, width_);
      if (few) {
        few_norm_linear(ctx, stream, w.attn_norm, norm_eps_, kv_weight, qkv);
        few_norm_linear(ctx, last_rows(stream, n), w.attn_norm, norm_eps_, q_weight, q);
      } else {
        linear_forward(ctx, h_all, kv_weight, qkv);
        linear_forward(ctx, last_rows(h_all, n), q_weight, q);
      }
      step.q = heads(q, n, 0, config_.heads, hd);
      residual = last_rows(stream, n);
      sum = arena.allocate(dtype, {m, width_});  // its rows must not overwrite the stream's, which lie elsewhere
    } else {
      if (few) {
        few_norm_linear(ctx, stream, w.attn_norm, norm_eps_, w.qkv, qkv);
      } else {
        linear_forward(ctx, h_all, w.qkv, qkv);
      }
      step.q = heads(qkv, n, 0, config_.heads, hd);
      kv_begin = width_;
    }
    step.k = heads(qkv, n, kv_begin, config_.kv_heads, hd);
    step.v = heads(qkv, n, kv_begin + kv_width(), config_.kv_heads, hd);
    attention_step(ctx, rope_, step);
    if (few) {
      const TensorView act = arena.allocate(dtype, {m, config_.ffn});
      few_linear(ctx, attn, w.o, residual, sum);
      few_norm_swiglu(ctx, sum, w.mlp_norm, norm_eps_, w.gate_up, act);
      few_linear(ctx, act, w.down, sum, sum);
      if (last) few_norm(ctx, sum, weights.norm, norm_eps_, out);
      stream = carried;
      continue;
    }
    close_layer(ctx, arena, w, attn, residual, last ? weights.norm : weights.layers[i + 1].attn_norm, sum,
                last ? out : h_all);
    stream = carried;
  }
}

void CachedStack::prefill(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x,
                          KvCache& cache, const ConstTensorView& slot, const ConstTensorView& length,
                          const TensorView& out) const {
  const std::int64_t n = x.size(0);
  const std::int64_t rows = n * x.size(1);
  const DType dtype = x.dtype();
  const std::size_t num_layers = weights.layers.size();
  const std::int64_t hd = head_width();
  const ArenaScope scope(arena);
  const TensorView h = arena.allocate(dtype, {rows, width_});
  const TensorView carried = arena.allocate(dtype, {rows, width_});
  ConstTensorView stream = x.reshape({rows, width_});
  rms_norm_forward(ctx, stream, weights.layers[0].attn_norm, norm_eps_, h, TensorView());
  for (std::size_t i = 0; i < num_layers; ++i) {
    const LayerTensors& w = weights.layers[i];
    const bool last = i + 1 == num_layers;
    const ArenaScope layer_scope(arena);
    const TensorView qkv = arena.allocate(dtype, {rows, width_ + 2 * kv_width()});
    const TensorView attn = arena.allocate(dtype, {rows, width_});
    linear_forward(ctx, h, w.qkv, qkv);
    rope(ctx, rope_, heads(qkv, n, 0, config_.heads + config_.kv_heads, hd), Rotation::forward);
    const TensorView k = heads(qkv, n, width_, config_.kv_heads, hd);
    const TensorView v = heads(qkv, n, width_ + kv_width(), config_.kv_heads, hd);
    stream_attention_forward(ctx, heads(qkv, n, 0, config_.heads, hd), k, v, config_.window,
                             heads(attn, n, 0, config_.heads, hd), TensorView());
    cache_fill(ctx, k, v, slot, length, cache.k[i], cache.v[i]);
    close_layer(ctx, arena, w, attn, stream, last ? weights.norm : weights.layers[i + 1].attn_norm, carried,
                last ? out.reshape({rows, width_}) : h);
    stream = carried;
  }
}

}  // namespace photon
