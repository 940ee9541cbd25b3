#include "blueprint/activations.hpp"

#include <algorithm>

namespace photon {
namespace {

// Follows an arena's bookkeeping without memory. The functions below walk through the model's allocations in its own
// order.
class Meter {
 public:
  explicit Meter(std::int64_t element) : element_(element) {}
  void activations(std::int64_t elements) { take(arena_bytes(elements, element_)); }
  void floats(std::int64_t elements) { take(arena_bytes(elements, 4)); }
  void ints(std::int64_t elements) { take(arena_bytes(elements, 4)); }
  void bytes(std::int64_t elements) { take(arena_bytes(elements, 1)); }
  void take(std::int64_t size) {
    used_ += size;
    peak_ = std::max(peak_, used_);
  }
  // Room that is given back at once.
  void touch(std::int64_t size) { peak_ = std::max(peak_, used_ + size); }
  std::int64_t used() const { return used_; }
  std::int64_t peak() const { return peak_; }
  void rewind(std::int64_t mark) { used_ = mark; }

 private:
  std::int64_t element_;
  std::int64_t used_ = 0;
  std::int64_t peak_ = 0;
};

struct Widths {
  std::int64_t d, kv, f, heads;  // D, 2 Hkv hd, F, Hq
};

Widths widths(const StackConfig& stack, std::int64_t width) {
  return {width, 2 * stack.kv_heads * (width / stack.heads), stack.ffn, stack.heads};
}

// A layer's products in their order: x [rows, inputs] times a weight [outputs, inputs].
struct LayerProduct {
  std::int64_t rows, outputs, inputs;
};
std::vector<LayerProduct> layer_products(const Widths& w, const StackShape& shape, bool trimmed) {
  const std::int64_t n = shape.rows();
  const std::int64_t m = trimmed ? shape.output_rows() : n;
  std::vector<LayerProduct> products{{n, trimmed ? w.kv : w.d + w.kv, w.d}};
  if (trimmed) products.push_back({m, w.d, w.d});  // the queries
  products.push_back({m, w.d, w.d});
  products.push_back({m, 2 * w.f, w.d});
  products.push_back({m, w.d, w.f});
  return products;
}

// The 8-bit copies that a product makes of its input in the forward, and of the gradient of its output in the backward.
void input_copy(Meter& meter, const LayerProduct& p, const PassOptions& options) {
  if (product_in_fp8(options, p.rows, p.outputs, p.inputs)) meter.touch(arena_bytes(p.rows * p.inputs, 1));
}
void gradient_copies(Meter& meter, const LayerProduct& p, const PassOptions& options) {
  if (product_in_fp8(options, p.rows, p.outputs, p.inputs)) {
    const std::int64_t copies = options.split_backward ? 1 : 2;
    meter.touch(copies * arena_bytes(p.rows * p.outputs, 1) + arena_bytes(1, f32_bytes));
  }
}

// Stack::allocate_layer.
void layer(Meter& meter, const Widths& w, AttentionKind kind, const StackShape& shape, bool trimmed, bool saving,
           const PassOptions& options) {
  const std::int64_t n = shape.rows();
  const std::int64_t m = trimmed ? shape.output_rows() : n;
  meter.activations(n * (trimmed ? w.kv : w.d + w.kv));
  if (trimmed) meter.activations(m * w.d);
  meter.activations(m * w.d);
  meter.activations(m * w.d);
  meter.activations(m * 2 * w.f);
  if (saving) {
    meter.floats(n);
    meter.floats(m);
    if (kind == AttentionKind::stream) meter.floats(shape.sequences * w.heads * shape.positions);
  }
  for (const LayerProduct& p : layer_products(w, shape, trimmed)) {
    if (!product_in_fp8(options, p.rows, p.outputs, p.inputs)) continue;
    if (saving) meter.bytes(p.rows * p.inputs);
    meter.floats(1);
  }
}

// Stack::attention_operands.
void attention_operands(Meter& meter, const Widths& w, const StackShape& shape, bool trimmed) {
  meter.activations(shape.rows() * (trimmed ? w.kv : w.d + w.kv));
  if (trimmed) meter.activations(shape.output_rows() * w.d);
}

// Stack::project's gathering of output rows.
void gather_rows(Meter& meter, const Widths& w, const StackShape& shape, const PassOptions& options) {
  const std::int64_t mark = meter.used();
  meter.activations(shape.output_rows() * w.d);
  input_copy(meter, layer_products(w, shape, true)[1], options);
  meter.rewind(mark);
}

// The forward of a layer.
void run_layer(Meter& meter, const Widths& w, const StackShape& shape, bool trimmed, const PassOptions& options) {
  const std::vector<LayerProduct> products = layer_products(w, shape, trimmed);
  for (std::size_t i = 0; i < products.size(); ++i) {
    if (!trimmed || i != 1) input_copy(meter, products[i], options);
  }
  if (trimmed) gather_rows(meter, w, shape, options);
}

}  // namespace

std::int64_t activation_bytes(Precision precision) {
  return precision == Precision::fp32 ? f32_bytes : 2;
}

std::int64_t weight_bytes(std::int64_t elements, std::int64_t element) {
  return elements * (f32_bytes + (element == f32_bytes ? 0 : element));
}

PassOptions pass_options(const RunConfig& config) {
  return {.recompute = config.parallel.recompute == Recompute::layers,
          .split_backward = config.parallel.split_backward == SplitBackward::on,
          .fp8 = config.train.precision == Precision::fp8};
}

bool product_in_fp8(const PassOptions& options, std::int64_t rows, std::int64_t outputs, std::int64_t inputs) {
  constexpr std::int64_t least_rows = 4096;
  return options.fp8 && rows >= least_rows && rows % 16 == 0 && outputs % 16 == 0 && inputs % 16 == 0;
}

std::int64_t fp8_weight_bytes(const ModelConfig& config, const LayerRange& layers) {
  const bool vanilla = config.type == ModelType::vanilla;
  std::int64_t elements = 0;
  for (std::int64_t module = 0; module < num_modules(config); ++module) {
    const std::int64_t level = module < config.num_levels() ? module + 1 : 2 * config.num_levels() - module - 1;
    const Widths w = widths(module_stack(config, module), vanilla ? config.dim : config.width(level));
    elements += part_of(config, layers, module).size() * ((w.d + w.kv) * w.d + w.d * w.d + 3 * w.f * w.d);
  }
  return 2 * elements;
}

std::int64_t arena_bytes(std::int64_t elements, std::int64_t element_size) {
  return (elements * element_size + arena_alignment - 1) / arena_alignment * arena_alignment;
}

std::int64_t stack_saved_bytes(const StackConfig& stack, std::int64_t width, AttentionKind kind,
                               const StackShape& shape, std::int64_t element, const PassOptions& options) {
  return stack_saved_bytes(stack, whole_stack(stack), width, kind, shape, element, options);
}

std::int64_t stack_saved_bytes(const StackConfig& stack, const StackPart& part, std::int64_t width, AttentionKind kind,
                               const StackShape& shape, std::int64_t element, const PassOptions& options) {
  Meter meter(element);
  const Widths w = widths(stack, width);
  for (std::int64_t i = part.begin; i < part.end; ++i) {
    if (!options.recompute) layer(meter, w, kind, shape, i + 1 == part.of && shape.trimmed(), true, options);
    if (i > part.begin) meter.activations(shape.rows() * w.d);
  }
  if (!part.ends()) return meter.peak();
  meter.activations(shape.output_rows() * w.d);
  meter.floats(shape.output_rows());
  return meter.peak();
}

std::int64_t stack_operand_bytes(const StackConfig& stack, const StackPart& part, std::int64_t width,
                                 const StackShape& shape, std::int64_t element) {
  Meter meter(element);
  const Widths w = widths(stack, width);
  const std::int64_t n = shape.rows();
  for (std::int64_t i = part.begin; i < part.end; ++i) {
    const bool trimmed = i + 1 == part.of && shape.trimmed();
    const std::int64_t m = trimmed ? shape.output_rows() : n;
    attention_operands(meter, w, shape, trimmed);
    meter.activations(m * w.d);
    meter.activations(m * w.f);
    meter.activations(m * w.d);
  }
  return meter.peak();
}

std::int64_t stack_forward_scratch_bytes(const StackConfig& stack, const StackPart& part, std::int64_t width,
                                         AttentionKind kind, const StackShape& shape, std::int64_t element,
                                         const PassOptions& options) {
  Meter meter(element);
  const Widths w = widths(stack, width);
  const std::int64_t n = shape.rows();
  meter.activations(n * w.d);
  meter.activations(n * w.f);
  if (options.fp8) meter.floats(1);
  const std::int64_t base = meter.used();
  for (std::int64_t i = part.begin; i < part.end; ++i) {
    const bool trimmed = i + 1 == part.of && shape.trimmed();
    if (options.recompute) layer(meter, w, kind, shape, trimmed, false, options);
    run_layer(meter, w, shape, trimmed, options);
    meter.rewind(base);
  }
  return meter.peak();
}

std::int64_t stack_backward_scratch_bytes(const StackConfig& stack, std::int64_t width, AttentionKind kind,
                                          const StackShape& shape, std::int64_t element, const PassOptions& options) {
  return stack_backward_scratch_bytes(stack, whole_stack(stack), width, kind, shape, element, options);
}

std::int64_t stack_backward_scratch_bytes(const StackConfig& stack, const StackPart& part, std::int64_t width,
                                          AttentionKind kind, const StackShape& shape, std::int64_t element,
                                          const PassOptions& options) {
  Meter meter(element);
  const Widths w = widths(stack, width);
  const std::int64_t n = shape.rows();
  const std::int64_t m = shape.output_rows();
  meter.activations(n * w.d);
  if (!options.split_backward) {
    meter.activations(n * w.d);
    meter.activations(n * w.f);
  }
  for (int i = 0; i < 2 && options.fp8; ++i) meter.floats(1);
  if (!options.split_backward && shape.trimmed()) meter.activations(m * w.d);
  const std::int64_t base = meter.used();
  for (std::int64_t i = part.begin; i < part.end; ++i) {
    const bool trimmed = i + 1 == part.of && shape.trimmed();
    if (options.recompute) {
      layer(meter, w, kind, shape, trimmed, true, options);
      run_layer(meter, w, shape, trimmed, options);
    }
    const std::vector<LayerProduct> products = layer_products(w, shape, trimmed);
    meter.activations((trimmed ? m : n) * w.d);
    if (!options.split_backward) attention_operands(meter, w, shape, trimmed);
    for (std::size_t p = 0; p < products.size(); ++p) {
      if (!trimmed || p != 1) gradient_copies(meter, products[p], options);
    }
    if (trimmed) {
      meter.activations(m * w.d);
      gradient_copies(meter, products[1], options);
    }
    meter.rewind(base);
  }
  return meter.peak();
}

std::int64_t stack_inference_bytes(const StackConfig& stack, std::int64_t width, AttentionKind kind,
                                   const StackShape& shape, std::int64_t element) {
  Meter meter(element);
  const Widths w = widths(stack, width);
  const std::int64_t n = shape.rows();
  meter.activations(n * w.d);
  meter.activations(n * w.f);
  meter.activations(n * w.d);
  for (int i = 0; i < 3; ++i) meter.ints(shape.sequences);  // the cache's index, where there is one
  const std::int64_t base = meter.used();
  for (std::int64_t i = 0; i < stack.layers; ++i) {
    const bool trimmed = i + 1 == stack.layers && shape.trimmed();
    layer(meter, w, kind, shape, trimmed, false, {});
    if (trimmed) gather_rows(meter, w, shape, {});
    meter.rewind(base);
  }
  return meter.peak();
}

namespace {

void saved_stack(Meter& meter, const StackConfig& stack, const StackPart& part, std::int64_t width, AttentionKind kind,
                 const StackShape& shape, std::int64_t element, const PassOptions& options) {
  meter.take(stack_saved_bytes(stack, part, width, kind, shape, element, options));
  meter.touch(stack_forward_scratch_bytes(stack, part, width, kind, shape, element, options));
}

// VanillaStage.
std::int64_t vanilla_stage_bytes(const ModelConfig& config, const LayerRange& layers, std::int64_t batch,
                                 std::int64_t tokens, std::int64_t element, const PassOptions& options) {
  Meter meter(element);
  const StackPart part = part_of(config, layers, 0);
  const std::int64_t n = batch * tokens;
  const StackShape shape{batch, tokens, tokens};
  if (part.starts()) meter.ints(n);  // inputs
  if (part.ends()) {
    meter.ints(n);   // targets
    meter.bytes(n);  // mask
  }
  meter.activations(n * config.dim);  // embeddings, or what the layer before gave
  meter.activations(n * config.dim);  // output
  saved_stack(meter, config.stack, part, config.dim, AttentionKind::stream, shape, element, options);
  meter.activations(n * config.dim);  // gradient of the output
  meter.activations(n * config.dim);  // gradient of the input
  if (options.split_backward) meter.take(stack_operand_bytes(config.stack, part, config.dim, shape, element));
  meter.touch(
      stack_backward_scratch_bytes(config.stack, part, config.dim, AttentionKind::stream, shape, element, options));
  return meter.peak();
}

}  // namespace

std::int64_t training_activation_bytes(const ModelConfig& config, std::int64_t batch, std::int64_t tokens,
                                       std::int64_t element, const PassOptions& options) {
  return stage_activation_bytes(config, all_layers(config), batch, tokens, batch * config.num_groups(tokens), element,
                                options);
}

std::int64_t stage_activation_bytes(const ModelConfig& config, const LayerRange& layers, std::int64_t batch,
                                    std::int64_t tokens, std::int64_t groups, std::int64_t element,
                                    const PassOptions& options) {
  if (config.type == ModelType::vanilla) return vanilla_stage_bytes(config, layers, batch, tokens, element, options);
  const std::int64_t group = config.group_tokens();
  const std::int64_t padded = config.padded_length(tokens);
  const std::int64_t num_levels = config.num_levels();
  const ChainPart part(config, layers);
  const auto units = [&](std::int64_t l) { return groups * (group / config.cumulative_chunk(l)); };
  const auto level = [&](std::int64_t l) -> const LevelConfig& {
    return config.levels[static_cast<std::size_t>(l - 1)];
  };
  const auto encoder_shape = [&](std::int64_t l) {
    const std::int64_t m = padded / config.cumulative_chunk(l);
    return StackShape{batch, m, m};
  };
  const auto decoder_shape = [&](std::int64_t l) {
    const std::int64_t positions = config.decoder_positions(l);
    return StackShape{units(l), positions, part.decoder(l).ends() ? level(l).chunk : positions};
  };

  // In the order of PhotonStage.
  Meter meter(element);
  const auto state = [&](std::int64_t l) { meter.activations(units(l) * config.width(l)); };
  // The residual stream where the part begins or ends inside a stack, or its gradient.
  const auto streams = [&](bool ends) {
    for (std::int64_t l = 1; l <= num_levels; ++l) {
      const StackPart& e = part.encoder(l);
      if (!e.empty() && !(ends ? e.ends() : e.starts())) state(l);
      const StackPart& d = part.decoder(l);
      if (!d.empty() && !(ends ? d.ends() : d.starts()))
        meter.activations(decoder_shape(l).rows() * config.width(l - 1));
    }
  };
  if (part.embeds() || part.has_head()) {
    meter.ints(units(0));   // tokens
    meter.bytes(units(0));  // mask
  }
  for (std::int64_t l = 1; l <= num_levels; ++l) {  // what other parts make
    if (part.reads_x(l) && !part.makes_x(l)) state(l);
    if (part.reads_y(l) && !part.makes_y(l)) state(l);
  }
  streams(false);
  streams(true);
  if (part.embeds()) state(0);  // X(0)
  for (std::int64_t l = 1; l <= num_levels; ++l) {
    const StackPart& e = part.encoder(l);
    if (e.empty()) continue;
    if (e.starts()) state(l);  // A(l)
    if (e.ends()) state(l);    // X(l)
    saved_stack(meter, level(l).encoder, e, config.width(l), AttentionKind::stream, encoder_shape(l), element, options);
  }
  if (part.encoder(num_levels).ends()) state(num_levels);  // c(L)
  for (std::int64_t l = num_levels; l >= 1; --l) {
    const StackPart& d = part.decoder(l);
    if (d.empty()) continue;
    const StackShape shape = decoder_shape(l);
    const std::int64_t below = config.width(l - 1);
    if (d.starts()) meter.activations(shape.rows() * below);                                // decoder rows
    if (d.ends()) state(l - 1);                                                             // Y(l-1)
    if (d.starts()) meter.touch(arena_bytes(units(l) * level(l).prefix * below, element));  // U(l)
    saved_stack(meter, level(l).decoder, d, below, AttentionKind::group, shape, element, options);
  }
  for (std::int64_t l = 1; l < num_levels; ++l) {
    if (part.decoder(l + 1).ends()) meter.bytes(units(l));  // which units hold no padding
  }
  for (std::int64_t l = 0; l <= num_levels; ++l) {
    if (part.makes_x(l) || part.reads_x(l)) state(l);  // dX(l)
  }
  for (std::int64_t l = 0; l <= num_levels; ++l) {
    if (part.makes_y(l) || part.reads_y(l)) state(l);  // dY(l), dc(L)
  }
  streams(false);
  streams(true);
  for (std::int64_t l = 1; options.split_backward && l <= num_levels; ++l) {
    const StackPart& e = part.encoder(l);
    const StackPart& d = part.decoder(l);
    const std::int64_t below = config.width(l - 1);
    if (e.starts()) state(l);                                               // dA(l)
    if (d.starts()) meter.activations(units(l) * level(l).prefix * below);  // dU(l)
    meter.take(stack_operand_bytes(level(l).encoder, e, config.width(l), encoder_shape(l), element));
    meter.take(stack_operand_bytes(level(l).decoder, d, below, decoder_shape(l), element));
  }
  const std::int64_t base = meter.used();
  for (std::int64_t l = 1; l <= num_levels; ++l) {
    const StackPart& d = part.decoder(l);
    if (d.empty()) continue;
    const StackShape shape = decoder_shape(l);
    if (d.starts()) {
      meter.activations(shape.rows() * config.width(l - 1));  // gradient of the decoder rows
      if (!options.split_backward) meter.activations(units(l) * level(l).prefix * config.width(l - 1));  // dU(l)
    }
    meter.touch(stack_backward_scratch_bytes(level(l).decoder, d, config.width(l - 1), AttentionKind::group, shape,
                                             element, options));
    meter.rewind(base);
  }
  for (std::int64_t l = num_levels; l >= 1; --l) {
    const StackPart& e = part.encoder(l);
    if (e.empty()) continue;
    if (e.starts() && !options.split_backward) state(l);  // dA(l)
    meter.touch(stack_backward_scratch_bytes(level(l).encoder, e, config.width(l), AttentionKind::stream,
                                             encoder_shape(l), element, options));
    meter.rewind(base);
  }
  return meter.peak();
}

namespace {

std::int64_t kv_cache_bytes(const StackConfig& stack, std::int64_t width, std::int64_t units, std::int64_t element) {
  const std::int64_t kept = stack.window > 0 ? std::min(stack.window, units) : units;
  return element * 2 * stack.layers * stack.kv_heads * (width / stack.heads) * kept;
}

std::int64_t encoder_cache_bytes(const ModelConfig& config, std::int64_t l, std::int64_t max_tokens,
                                 std::int64_t element) {
  const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
  const std::int64_t span = config.cumulative_chunk(l);
  return kv_cache_bytes(level.encoder, level.dim, (max_tokens + span - 1) / span, element);
}

}  // namespace

std::int64_t lower_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, std::int64_t element) {
  std::int64_t bytes = 0;
  for (std::int64_t l = 1; l < config.num_levels(); ++l) bytes += encoder_cache_bytes(config, l, max_tokens, element);
  return bytes;
}

std::int64_t coarse_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, std::int64_t element) {
  std::int64_t bytes = element * config.width(config.num_levels());
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
    bytes += encoder_cache_bytes(config, l, max_tokens, element);
    if (l > 1) bytes += kv_cache_bytes(level.decoder, config.width(l - 1), config.decoder_positions(l), element);
  }
  return bytes;
}

std::int64_t decode_cache_bytes(const ModelConfig& config, std::int64_t max_tokens, std::int64_t element) {
  if (config.type == ModelType::vanilla) return kv_cache_bytes(config.stack, config.dim, max_tokens, element);
  return coarse_cache_bytes(config, max_tokens, element) + element * config.lookback * config.dim +
         kv_cache_bytes(config.levels[0].decoder, config.dim, config.decoder_positions(1), element);
}

std::int64_t decode_step_row_bytes(const ModelConfig& config, std::int64_t element) {
  const auto layer = [](const StackConfig& stack, std::int64_t width, std::int64_t positions) {
    const std::int64_t kv = stack.kv_heads * (width / stack.heads);
    return positions * (7 * width + 2 * kv + 3 * stack.ffn);
  };
  std::int64_t elements = 0;
  std::int64_t most = 0;
  if (config.type == ModelType::vanilla) {
    elements = 2 * config.dim;
    most = layer(config.stack, config.dim, 1);
  }
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    const LevelConfig& c = config.levels[static_cast<std::size_t>(l - 1)];
    const std::int64_t below = config.width(l - 1);
    const std::int64_t start = c.prefix + config.level_lookback(l);
    elements += (start + 1 + c.chunk) * below + 3 * c.dim;
    most = std::max({most, layer(c.decoder, below, start), layer(c.encoder, c.dim, 1)});
  }
  const std::int64_t bytes = (elements + most) * element + config.vocab_size * 4 + 4096;
  return bytes + bytes / 8;  // steps are padded by up to an eighth
}

}  // namespace photon
