#include "blueprint/parameters.hpp"

#include <cmath>

#include "support/error.hpp"

namespace photon {
namespace {

// Collects specs in flat order.
class Layout {
 public:
  void add(std::string name, std::vector<std::int64_t> shape, double std_dev, bool behind_previous = false) {
    ParameterSpec spec;
    spec.decays = shape.size() >= 2;
    spec.name = std::move(name);
    spec.shape = std::move(shape);
    spec.init_std = std_dev;
    append(std::move(spec), behind_previous);
  }
  void add_norm(std::string name, std::int64_t width) {
    ParameterSpec spec;
    spec.name = std::move(name);
    spec.shape = {width};
    spec.init_value = 1.0;
    append(std::move(spec), false);
  }
  std::vector<ParameterSpec> take() { return std::move(specs_); }

 private:
  void append(ParameterSpec spec, bool behind_previous) {
    if (!behind_previous) next_ = (next_ + parameter_alignment - 1) / parameter_alignment * parameter_alignment;
    spec.offset = next_;
    next_ += spec.numel();
    specs_.push_back(std::move(spec));
  }

  std::vector<ParameterSpec> specs_;
  std::int64_t next_ = 0;
};

constexpr double init_std = 0.02;

void add_stack(Layout& layout, const std::string& prefix, const StackConfig& stack, std::int64_t width, bool vanilla) {
  const double residual_std = init_std / std::sqrt(2.0 * static_cast<double>(stack.layers));
  const std::int64_t kv_width = width / stack.heads * stack.kv_heads;
  for (std::int64_t i = 0; i < stack.layers; ++i) {
    const LayerNames n = layer_names(prefix, i, vanilla);
    layout.add_norm(n.attn_norm, width);
    layout.add(n.q_proj, {width, width}, init_std);
    layout.add(n.k_proj, {kv_width, width}, init_std, true);
    layout.add(n.v_proj, {kv_width, width}, init_std, true);
    layout.add(n.o_proj, {width, width}, residual_std);
    layout.add_norm(n.mlp_norm, width);
    layout.add(n.gate_proj, {stack.ffn, width}, init_std);
    layout.add(n.up_proj, {stack.ffn, width}, init_std, true);
    layout.add(n.down_proj, {width, stack.ffn}, residual_std);
  }
  layout.add_norm(prefix + "norm.weight", width);
}

}  // namespace

std::int64_t ParameterSpec::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t d : shape) n *= d;
  return n;
}

LayerNames layer_names(const std::string& stack_prefix, std::int64_t layer, bool vanilla) {
  const std::string p = stack_prefix + "layers." + std::to_string(layer) + ".";
  const std::string attn = p + (vanilla ? "self_attn." : "attn.");
  return {p + (vanilla ? "input_layernorm.weight" : "attn_norm.weight"),
          attn + "q_proj.weight",
          attn + "k_proj.weight",
          attn + "v_proj.weight",
          attn + "o_proj.weight",
          p + (vanilla ? "post_attention_layernorm.weight" : "mlp_norm.weight"),
          p + "mlp.gate_proj.weight",
          p + "mlp.up_proj.weight",
          p + "mlp.down_proj.weight"};
}

std::vector<ParameterSpec> parameters(const ModelConfig& config) {
  Layout layout;
  if (config.type == ModelType::vanilla) {
    layout.add("model.embed_tokens.weight", {config.vocab_size, config.dim}, init_std);
    add_stack(layout, "model.", config.stack, config.dim, true);
  } else {
    layout.add("embed.weight", {config.vocab_size, config.dim}, init_std);
    layout.add("start_latent", {config.width(config.num_levels())}, 0.0);
    for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
      const LevelConfig& level = config.levels[static_cast<std::size_t>(l - 1)];
      const std::int64_t below = config.width(l - 1);
      const std::string prefix = "levels." + std::to_string(l - 1) + ".";
      layout.add(prefix + "chunker.weight", {level.dim, level.chunk * below}, init_std);
      add_stack(layout, prefix + "encoder.", level.encoder, level.dim, false);
      layout.add(prefix + "converter.weight", {level.prefix * below, level.dim}, init_std);
      add_stack(layout, prefix + "decoder.", level.decoder, below, false);
    }
  }
  if (!config.tie_embeddings) layout.add("lm_head.weight", {config.vocab_size, config.dim}, init_std);
  return layout.take();
}

std::int64_t flat_size(const std::vector<ParameterSpec>& specs) {
  return specs.empty() ? 0 : specs.back().offset + specs.back().numel();
}

std::int64_t vectors_size(const std::vector<ParameterSpec>& specs) {
  std::int64_t size = 0;
  for (const ParameterSpec& spec : specs) {
    if (spec.shape.size() == 1)
      size += (spec.numel() + parameter_alignment - 1) / parameter_alignment * parameter_alignment;
  }
  return size;
}

std::int64_t num_parameters(const ModelConfig& config) {
  std::int64_t n = 0;
  for (const ParameterSpec& spec : parameters(config)) n += spec.numel();
  return n;
}

}  // namespace photon
