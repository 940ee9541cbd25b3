#include "model/stack.hpp"

#include <algorithm>

#include "kernels/attention.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/group_attention.hpp"
#include "kernels/linear.hpp"
#include "kernels/norm.hpp"
#include "kernels/swiglu.hpp"
#include "model/layer_product.hpp"

namespace photon {
namespace {

TensorView full_floats(Arena& arena, const Shape& shape) {
  return arena.allocate(DType::f32, shape);
}

// [n, H*hd] -> [S, N, H, hd]
TensorView heads(const TensorView& x, std::int64_t sequences, std::int64_t num_heads) {
  return x.split(1, num_heads).split(0, sequences);
}

// The last `outputs` positions of [S*N, D] as a strided [S, outputs, D].
template <bool Const>
BasicView<Const> output_rows(const BasicView<Const>& x, const StackShape& shape) {
  return x.split(0, shape.sequences).slice(1, shape.positions - shape.outputs, shape.outputs);
}

template <class T>
TensorView upload_values(const Context& ctx, Arena& arena, std::span<const T> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  const TensorView view = arena.allocate(dtype_of<T>, {count});
  copy(ctx.stream, host_view(values.data(), {count}), view);
  return view;
}

}  // namespace

TensorView upload(const Context& ctx, Arena& arena, std::span<const std::int32_t> values) {
  return upload_values(ctx, arena, values);
}

TensorView upload(const Context& ctx, Arena& arena, std::span<const std::uint8_t> values) {
  return upload_values(ctx, arena, values);
}

Stack::Stack(const StackConfig& config, std::int64_t width, double norm_eps, AttentionKind kind, std::string prefix,
             bool vanilla, DType dtype)
    : Stack(config, whole_stack(config), width, norm_eps, kind, std::move(prefix), vanilla, dtype) {}

Stack::Stack(const StackConfig& config, const StackPart& part, std::int64_t width, double norm_eps, AttentionKind kind,
             std::string prefix, bool vanilla, DType dtype)
    : config_(config),
      part_(part),
      width_(width),
      norm_eps_(norm_eps),
      kind_(kind),
      prefix_(std::move(prefix)),
      vanilla_(vanilla),
      dtype_(dtype),
      rope_(width / config.heads, config.rope_theta) {}

StackTensors Stack::bind(const Parameters& parameters) const {
  StackTensors tensors;
  for (std::int64_t i = part_.begin; i < part_.end; ++i) {
    const LayerNames n = layer_names(prefix_, i, vanilla_);
    tensors.layers.push_back({parameters.view(n.attn_norm), parameters.fused(n.q_proj, n.v_proj),
                              parameters.working_view(n.o_proj), parameters.view(n.mlp_norm),
                              parameters.fused(n.gate_proj, n.up_proj), parameters.working_view(n.down_proj)});
  }
  if (part_.ends()) tensors.norm = parameters.view(prefix_ + "norm.weight");
  return tensors;
}

StackShape Stack::shape_of(const ConstTensorView& x, const TensorView& out) const {
  PHOTON_EXPECT(x.rank() == 3 && x.contiguous() && x.size(2) == width_ && x.dtype() == dtype_,
                "a stack's input is {} {}, expected {} of width {}", name_of(x.dtype()), x.shape().str(),
                name_of(dtype_), width_);
  PHOTON_EXPECT(out.rank() == 3 && out.contiguous() && out.size(0) == x.size(0) && out.size(1) >= 1 &&
                    out.size(1) <= x.size(1) && out.size(2) == width_,
                "a stack's output is {} for {}", out.shape().str(), x.shape().str());
  PHOTON_EXPECT(part_.ends() || out.size(1) == x.size(1), "layers {} to {} of {} give every position", part_.begin,
                part_.end - 1, part_.of);
  return {x.size(0), x.size(1), out.size(1)};
}

Stack::LayerSaved Stack::allocate_layer(Arena& arena, const StackShape& shape, bool trimmed, bool saving,
                                        const PassOptions& options) const {
  const std::int64_t n = shape.rows();
  const std::int64_t m = trimmed ? shape.output_rows() : n;
  const std::int64_t kv = 2 * config_.kv_heads * head_width();
  LayerSaved layer;
  layer.qkv = floats(arena, {n, trimmed ? kv : width_ + kv});
  if (trimmed) layer.q = floats(arena, {m, width_});
  layer.attn = floats(arena, {m, width_});
  layer.mid = floats(arena, {m, width_});
  layer.gate_up = floats(arena, {m, 2 * config_.ffn});
  if (saving) {
    layer.rstd1 = full_floats(arena, {n});
    layer.rstd2 = full_floats(arena, {m});
    if (kind_ == AttentionKind::stream)
      layer.lse = full_floats(arena, {shape.sequences, config_.heads, shape.positions});
  }
  const auto input = [&](std::int64_t rows, std::int64_t outputs, std::int64_t inputs) {
    return allocate_product_input(arena, options, rows, outputs, inputs, saving);
  };
  layer.qkv_in = input(n, trimmed ? kv : width_ + kv, width_);
  if (trimmed) layer.q_in = input(m, width_, width_);
  layer.o_in = input(m, width_, width_);
  layer.gate_up_in = input(m, 2 * config_.ffn, width_);
  layer.down_in = input(m, width_, config_.ffn);
  return layer;
}

void Stack::project(const Context& ctx, Arena& arena, const LayerTensors& w, const StackShape& shape, bool trimmed,
                    const TensorView& h, const TensorView& largest, const LayerSaved& layer) const {
  const std::int64_t kv_heads = config_.kv_heads;
  const std::int64_t hd = head_width();
  if (!trimmed) {
    product_forward(ctx, arena, h, {w.qkv, w.qkv8}, layer.qkv_in, layer.qkv, largest);
    if (kind_ == AttentionKind::group) return;  // its op turns queries and keys itself
    const std::int64_t turned = config_.heads + kv_heads;
    rope(ctx, rope_, heads(layer.qkv.slice(1, 0, turned * hd), shape.sequences, turned), Rotation::forward);
    return;
  }
  const LayerWeight weight{w.qkv, w.qkv8};
  product_forward(ctx, arena, h, weight.rows(width_, 2 * kv_heads * hd), layer.qkv_in, layer.qkv, largest);
  const ArenaScope scope(arena);
  const TensorView rows = floats(arena, {shape.output_rows(), width_});
  copy_elements(ctx, output_rows(h, shape), rows.split(0, shape.sequences));
  product_forward(ctx, arena, rows, weight.rows(0, width_), layer.q_in, layer.q, largest);
}

void Stack::attend(const Context& ctx, const StackShape& shape, const LayerSaved& layer) const {
  const std::int64_t s = shape.sequences;
  const std::int64_t hkv = config_.kv_heads;
  const std::int64_t kv_width = hkv * head_width();
  const bool trimmed = static_cast<bool>(layer.q);
  const TensorView q = heads(trimmed ? layer.q : layer.qkv.slice(1, 0, width_), s, config_.heads);
  const std::int64_t kv_begin = trimmed ? 0 : width_;
  const TensorView k = heads(layer.qkv.slice(1, kv_begin, kv_width), s, hkv);
  const TensorView v = heads(layer.qkv.slice(1, kv_begin + kv_width, kv_width), s, hkv);
  const TensorView out = heads(layer.attn, s, config_.heads);

  if (kind_ == AttentionKind::group) {
    group_attention_forward(ctx, q, k, v, out, &rope_);
    return;
  }
  PHOTON_EXPECT(!trimmed, "a trimmed stream of {} positions", shape.positions);
  stream_attention_forward(ctx, q, k, v, config_.window, out, layer.lse);
}

void Stack::layer_forward(const Context& ctx, Arena& arena, const LayerTensors& w, const StackShape& shape,
                          bool trimmed, const ConstTensorView& x, const TensorView& h_all, const TensorView& largest,
                          const LayerSaved& layer) const {
  project(ctx, arena, w, shape, trimmed, h_all, largest, layer);
  attend(ctx, shape, layer);
  ConstTensorView residual = x;
  if (trimmed) {
    copy_elements(ctx, output_rows(x, shape), layer.mid.split(0, shape.sequences));
    residual = layer.mid;
  }
  const TensorView h = h_all.slice(0, 0, layer.mid.size(0));
  product_forward(ctx, arena, layer.attn, {w.o, w.o8}, layer.o_in, layer.mid, {}, residual);
  rms_norm_forward(ctx, layer.mid, w.mlp_norm, norm_eps_, h, layer.rstd2, largest);
  product_forward(ctx, arena, h, {w.gate_up, w.gate_up8}, layer.gate_up_in, layer.gate_up, largest);
}

void Stack::run(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x,
                const TensorView& out, Saved* saved) {
  const StackShape shape = shape_of(x, out);
  const std::int64_t n = shape.rows();
  const std::size_t num_layers = weights.layers.size();
  const bool keeping = saved != nullptr;
  const bool saving = keeping && !saved->options.recompute;

  rope_.reserve(ctx.space, shape.positions);

  if (keeping) {
    saved->shape = shape;
    saved->input = x.reshape({n, width_});
    for (std::size_t i = 0; i < num_layers; ++i) {
      const bool trimmed = i + 1 == num_layers && shape.trimmed();
      saved->layers.push_back(saving ? allocate_layer(arena, shape, trimmed, true, saved->options) : LayerSaved());
      if (i > 0) saved->layers[i].x = floats(arena, {n, width_});
    }
    if (part_.ends()) {
      saved->last = floats(arena, {shape.output_rows(), width_});
      saved->rstd = full_floats(arena, {shape.output_rows()});
    }
  }

  const ArenaScope scope(arena);
  const TensorView h_all = floats(arena, {n, width_});
  const TensorView act_all = floats(arena, {n, config_.ffn});
  const TensorView carried = keeping ? TensorView() : floats(arena, {n, width_});  // the stream between unsaved layers
  const PassOptions options = keeping ? saved->options : PassOptions();
  // Of h, then of the activation, where products are of 8-bit floats.
  const TensorView largest = options.fp8 ? full_floats(arena, {1}) : TensorView();

  ConstTensorView stream = x.reshape({n, width_});  // [n, D] the layer's input
  for (std::size_t i = 0; i < num_layers; ++i) {
    const LayerTensors& w = weights.layers[i];
    const bool last = i + 1 == num_layers;
    const bool trimmed = trims(shape, i);
    const std::int64_t m = trimmed ? shape.output_rows() : n;
    const ArenaScope layer_scope(arena);
    const LayerSaved layer = saving ? saved->layers[i] : allocate_layer(arena, shape, trimmed, false, options);
    if (i == 0) rms_norm_forward(ctx, stream, w.attn_norm, norm_eps_, h_all, layer.rstd1, largest);

    layer_forward(ctx, arena, w, shape, trimmed, stream, h_all, largest, layer);
    const TensorView act = act_all.slice(0, 0, m);
    swiglu_forward(ctx, layer.gate_up, act, largest);
    TensorView next = keeping ? (last ? saved->last : saved->layers[i + 1].x) : carried.slice(0, 0, m);
    if (last && !part_.ends()) next = out.reshape({m, width_});
    product_forward(ctx, arena, act, {w.down, w.down8}, layer.down_in, next, largest, layer.mid);
    if (!last) {
      const TensorView next_rstd = keeping ? saved->layers[i + 1].rstd1 : TensorView();
      rms_norm_forward(ctx, next, weights.layers[i + 1].attn_norm, norm_eps_, h_all, next_rstd, largest);
    } else if (part_.ends()) {
      rms_norm_forward(ctx, next, weights.norm, norm_eps_, out.reshape({m, width_}),
                       keeping ? saved->rstd : TensorView());
    }
    stream = next;
  }
}

Stack::Saved Stack::forward_saving(const Context& ctx, Arena& arena, const StackTensors& weights,
                                   const ConstTensorView& x, const TensorView& out, const PassOptions& options) {
  Saved saved;
  saved.options = options;
  run(ctx, arena, weights, x, out, &saved);
  return saved;
}

void Stack::forward(const Context& ctx, Arena& arena, const StackTensors& weights, const ConstTensorView& x,
                    const TensorView& out) {
  run(ctx, arena, weights, x, out, nullptr);
}

Stack::LayerOperands Stack::attention_operands(Arena& arena, const LayerSaved& layer) {
  LayerOperands d;
  d.qkv = arena.allocate(layer.qkv.dtype(), layer.qkv.shape());
  if (layer.q) d.q = arena.allocate(layer.q.dtype(), layer.q.shape());
  return d;
}

void Stack::keep_operands(Arena& arena, Saved& saved) const {
  if (!saved.options.split_backward) return;
  PHOTON_EXPECT(!saved.options.recompute, "activations that are computed again cannot wait for a part of the backward");
  for (const LayerSaved& layer : saved.layers) {
    const std::int64_t m = layer.mid.size(0);
    LayerOperands d = attention_operands(arena, layer);
    d.down = floats(arena, {m, width_});
    d.act = floats(arena, {m, config_.ffn});
    d.o = floats(arena, {m, width_});
    saved.operands.push_back(d);
  }
}

void Stack::attention_backward(const Context& ctx, Arena& arena, const LayerTensors& w, const TensorView& g_qkv,
                               const StackShape& shape, const LayerSaved& layer, const ConstTensorView& dattn,
                               const LayerOperands& d, const TensorView& dh, Write write) const {
  const std::int64_t s = shape.sequences;
  const std::int64_t hkv = config_.kv_heads;
  const std::int64_t kv_width = hkv * head_width();
  const bool trimmed = static_cast<bool>(layer.q);
  const std::int64_t kv_begin = trimmed ? 0 : width_;

  const TensorView q = heads(trimmed ? layer.q : layer.qkv.slice(1, 0, width_), s, config_.heads);
  const TensorView k = heads(layer.qkv.slice(1, kv_begin, kv_width), s, hkv);
  const TensorView v = heads(layer.qkv.slice(1, kv_begin + kv_width, kv_width), s, hkv);
  const TensorView dq = heads(trimmed ? d.q : d.qkv.slice(1, 0, width_), s, config_.heads);
  const TensorView dk = heads(d.qkv.slice(1, kv_begin, kv_width), s, hkv);
  const TensorView dv = heads(d.qkv.slice(1, kv_begin + kv_width, kv_width), s, hkv);
  const ConstTensorView dout = dattn.split(1, config_.heads).split(0, s);
  if (kind_ == AttentionKind::group) {
    group_attention_backward(ctx, q, k, v, dout, dq, dk, dv, &rope_);
  } else {
    stream_attention_backward(ctx, q, k, v, heads(layer.attn, s, config_.heads), layer.lse, dout, config_.window, dq,
                              dk, dv, &rope_);
  }

  // Products of 8-bit floats make both gradients from one copy of theirs.
  const LayerWeight weight{w.qkv, w.qkv8};
  const auto now = [&](const Quantized& kept, std::int64_t begin, std::int64_t count) {
    return kept && g_qkv ? g_qkv.slice(0, begin, count) : TensorView();
  };
  if (!trimmed) {
    product_backward(ctx, arena, d.qkv, {}, weight, layer.qkv_in, now(layer.qkv_in, 0, width_ + 2 * kv_width), dh,
                     write);
    return;
  }
  product_backward(ctx, arena, d.qkv, {}, weight.rows(width_, 2 * kv_width), layer.qkv_in,
                   now(layer.qkv_in, width_, 2 * kv_width), dh, write);
  const ArenaScope scope(arena);
  const TensorView rows = floats(arena, {shape.output_rows(), width_});
  product_backward(ctx, arena, d.q, {}, weight.rows(0, width_), layer.q_in, now(layer.q_in, 0, width_), rows, write);
  copy_elements(ctx, rows.split(0, s), output_rows(dh, shape), Write::accumulate);
}

void Stack::qkv_weights(const Context& ctx, Arena& arena, const TensorView& g_qkv, const StackShape& shape,
                        const LayerSaved& layer, const LayerOperands& d, const TensorView& h, bool kept,
                        Write write) const {
  const auto gradient = [&](const ConstTensorView& dy, const ConstTensorView& input, const Quantized& input8,
                            const TensorView& dw) {
    if (!input8 || kept) product_backward(ctx, arena, dy, input, {}, input8, dw, {}, write);
  };
  if (!d.q) return gradient(d.qkv, h, layer.qkv_in, g_qkv);
  gradient(d.qkv, h, layer.qkv_in, g_qkv.slice(0, width_, d.qkv.size(1)));
  const ArenaScope scope(arena);
  const TensorView rows = floats(arena, {shape.output_rows(), width_});
  if (!layer.q_in) copy_elements(ctx, output_rows(h, shape), rows.split(0, shape.sequences));
  gradient(d.q, rows, layer.q_in, g_qkv.slice(0, 0, width_));
}

void Stack::backward(const Context& ctx, Arena& arena, const StackTensors& weights, const Saved& saved,
                     const ConstTensorView& dout, const TensorView& dx, const StackTensors& gradients, Write write) {
  const ArenaScope scope(arena);
  const StackShape& shape = saved.shape;
  const bool splits = saved.options.split_backward;
  PHOTON_EXPECT(!splits || saved.operands.size() == weights.layers.size(), "operands of {} layers of {} are kept",
                saved.operands.size(), weights.layers.size());
  const std::int64_t n = shape.rows();
  const TensorView dh_all = floats(arena, {n, width_});
  const TensorView h_all = splits ? TensorView() : floats(arena, {n, width_});
  const TensorView act_all = splits ? TensorView() : floats(arena, {n, config_.ffn});
  // Of the gradient that the next product takes, where products are of 8-bit floats; and of what is computed again.
  const TensorView largest = saved.options.fp8 ? full_floats(arena, {1}) : TensorView();
  const TensorView forward_largest = saved.options.fp8 ? full_floats(arena, {1}) : TensorView();
  TensorView stream_largest = part_.ends() ? largest : TensorView();

  // The gradient of the residual stream, [n, D]; [m, D] until the trimmed layer's queries have been passed. Where it is
  // kept it moves on to other memory behind every product that reads it.
  const TensorView stream_all = dx.reshape({n, width_});
  TensorView stream = stream_all;
  if (splits) {
    stream = saved.operands.back().down;
  } else if (shape.trimmed()) {
    stream = floats(arena, {shape.output_rows(), width_});
  }
  if (part_.ends()) {
    rms_norm_backward(ctx, dout.reshape({shape.output_rows(), width_}), saved.last, weights.norm, saved.rstd, {},
                      stream, gradients.norm, {}, largest);
  } else {
    copy_elements(ctx, dout.reshape({n, width_}), stream);
  }

  for (std::size_t i = weights.layers.size(); i-- > 0;) {
    const LayerTensors& w = weights.layers[i];
    const LayerTensors& g = gradients.layers[i];
    const LayerTensors now = splits ? LayerTensors() : g;  // the gradients of matrices that are made here
    const ArenaScope layer_scope(arena);
    const ConstTensorView x = i == 0 ? saved.input : ConstTensorView(saved.layers[i].x);
    const bool trimmed = trims(shape, i);
    const LayerSaved layer =
        saved.options.recompute ? allocate_layer(arena, shape, trimmed, true, saved.options) : saved.layers[i];
    if (saved.options.recompute) {
      rms_norm_forward(ctx, x, w.attn_norm, norm_eps_, h_all, layer.rstd1, forward_largest);
      layer_forward(ctx, arena, w, shape, trimmed, x, h_all, forward_largest, layer);
    }
    const std::int64_t m = trimmed ? shape.output_rows() : n;
    const TensorView dh = dh_all.slice(0, 0, m);
    const TensorView h = splits ? TensorView() : h_all.slice(0, 0, m);
    const TensorView dattn = floats(arena, {m, width_});
    LayerOperands d = splits ? saved.operands[i] : attention_operands(arena, layer);

    // MLP. The activation is computed again where its gradient is passed on, the normalised rows by the norm's
    // backward; in 8-bit floats these have been kept.
    d.down = stream;
    if (!splits) {
      d.act = act_all.slice(0, 0, m);
      d.o = stream;
    }
    if (layer.down_in) {
      if (saved.options.recompute) {
        swiglu_forward(ctx, layer.gate_up, d.act, forward_largest);
        quantize(ctx, d.act, layer.down_in, forward_largest);
      }
      product_backward(ctx, arena, d.down, {}, {w.down, w.down8}, layer.down_in, now.down, d.act, write,
                       stream_largest);  // d(act)
      swiglu_backward(ctx, d.act, layer.gate_up, layer.gate_up, {}, largest);
    } else {
      linear_backward_input(ctx, d.down, w.down, d.act);                          // d(act)
      swiglu_backward(ctx, d.act, layer.gate_up, layer.gate_up, d.act, largest);  // act
      if (!splits) linear_backward_weight(ctx, d.down, d.act, g.down, write);
    }
    const bool mlp_rows = !splits && !layer.gate_up_in;  // whether their weight's gradient is to come from them
    product_backward(ctx, arena, layer.gate_up, {}, {w.gate_up, w.gate_up8}, layer.gate_up_in,
                     mlp_rows ? TensorView() : now.gate_up, dh, write, largest);
    rms_norm_backward(ctx, dh, layer.mid, w.mlp_norm, layer.rstd2, stream, d.o, g.mlp_norm, mlp_rows ? h : TensorView(),
                      largest);
    if (mlp_rows) linear_backward_weight(ctx, layer.gate_up, h, g.gate_up, write);

    // Attention.
    product_backward(ctx, arena, d.o, layer.attn, {w.o, w.o8}, layer.o_in, now.o, dattn, write, largest);
    attention_backward(ctx, arena, w, now.qkv, shape, layer, dattn, d, dh_all, write);
    stream = splits && i > 0 ? saved.operands[i - 1].down : stream_all;
    ConstTensorView before = d.o;
    if (trimmed) {
      fill(ctx, stream, 0.0F);
      copy_elements(ctx, d.o.split(0, shape.sequences), output_rows(stream, shape));
      before = stream;
    }
    const bool attn_rows = !splits && (!layer.qkv_in || (trimmed && !layer.q_in));
    rms_norm_backward(ctx, dh_all, x, w.attn_norm, layer.rstd1, before, stream, g.attn_norm,
                      attn_rows ? h_all : TensorView(), largest);
    if (attn_rows) qkv_weights(ctx, arena, g.qkv, shape, layer, d, h_all, false, write);
    stream_largest = largest;
  }
}

void Stack::layer_weights(const Context& ctx, Arena& arena, const LayerTensors& w, const LayerTensors& g,
                          const StackShape& shape, const LayerSaved& layer, const ConstTensorView& x,
                          const LayerOperands& d, const TensorView& h_all, Write write) const {
  const auto gradient = [&](const ConstTensorView& dy, const ConstTensorView& input, const Quantized& kept,
                            const TensorView& dw) { product_backward(ctx, arena, dy, input, {}, kept, dw, {}, write); };
  const TensorView h = h_all.slice(0, 0, layer.mid.size(0));
  gradient(d.down, d.act, layer.down_in, g.down);
  if (!layer.gate_up_in) rms_norm_forward(ctx, layer.mid, w.mlp_norm, norm_eps_, h, TensorView());
  gradient(layer.gate_up, h, layer.gate_up_in, g.gate_up);
  gradient(d.o, layer.attn, layer.o_in, g.o);
  if (!layer.qkv_in || (d.q && !layer.q_in)) rms_norm_forward(ctx, x, w.attn_norm, norm_eps_, h_all, TensorView());
  qkv_weights(ctx, arena, g.qkv, shape, layer, d, h_all, true, write);
}

void Stack::backward_weights(const Context& ctx, Arena& arena, const StackTensors& weights, const Saved& saved,
                             const StackTensors& gradients, Write write) const {
  PHOTON_EXPECT(saved.operands.size() == weights.layers.size(), "operands of {} layers of {} are kept",
                saved.operands.size(), weights.layers.size());
  const ArenaScope scope(arena);
  const TensorView h = floats(arena, {saved.shape.rows(), width_});
  for (std::size_t i = weights.layers.size(); i-- > 0;) {
    const LayerSaved& layer = saved.layers[i];
    const ConstTensorView x = i == 0 ? saved.input : ConstTensorView(layer.x);
    layer_weights(ctx, arena, weights.layers[i], gradients.layers[i], saved.shape, layer, x, saved.operands[i], h,
                  write);
  }
}

}  // namespace photon
