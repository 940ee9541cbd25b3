#include "blueprint/modules.hpp"

#include <algorithm>
#include <charconv>

#include "support/error.hpp"

namespace photon {

std::int64_t num_modules(const ModelConfig& config) {
  return config.type == ModelType::vanilla ? 1 : 2 * config.num_levels();
}

std::int64_t encoder_module(std::int64_t l) {
  return l - 1;
}

std::int64_t decoder_module(const ModelConfig& config, std::int64_t l) {
  return 2 * config.num_levels() - l;
}

const StackConfig& module_stack(const ModelConfig& config, std::int64_t module) {
  PHOTON_EXPECT(module >= 0 && module < num_modules(config), "module {} of {}", module, num_modules(config));
  if (config.type == ModelType::vanilla) return config.stack;
  const std::int64_t num_levels = config.num_levels();
  return module < num_levels ? config.levels[static_cast<std::size_t>(module)].encoder
                             : config.levels[static_cast<std::size_t>(2 * num_levels - module - 1)].decoder;
}

std::string module_name(const ModelConfig& config, std::int64_t module) {
  PHOTON_EXPECT(module >= 0 && module < num_modules(config), "module {} of {}", module, num_modules(config));
  if (config.type == ModelType::vanilla) return "layer";
  const std::int64_t num_levels = config.num_levels();
  return module < num_levels ? fmt::format("encoder{}", module + 1) : fmt::format("decoder{}", 2 * num_levels - module);
}

LayerRange module_layers(const ModelConfig& config, std::int64_t module) {
  std::int64_t begin = 0;
  for (std::int64_t m = 0; m < module; ++m) begin += module_stack(config, m).layers;
  return {begin, begin + module_stack(config, module).layers};
}

LayerRange all_layers(const ModelConfig& config) {
  std::int64_t layers = 0;
  for (std::int64_t m = 0; m < num_modules(config); ++m) layers += module_stack(config, m).layers;
  return {0, layers};
}

LayerRange coarse_layers(const ModelConfig& config) {
  return {0, chunk_layers(config).begin};
}

LayerRange chunk_layers(const ModelConfig& config) {
  return module_layers(config, decoder_module(config, 1));
}

std::int64_t first_decoder_layer(const ModelConfig& config) {
  return config.type == ModelType::vanilla ? 0 : module_layers(config, config.num_levels()).begin;
}

std::int64_t module_of(const ModelConfig& config, std::int64_t layer) {
  for (std::int64_t m = 0; m < num_modules(config); ++m) {
    if (module_layers(config, m).contains(layer)) return m;
  }
  PHOTON_EXPECT(false, "layer {} of a chain of {}", layer, all_layers(config).end);
  return -1;
}

StackPart part_of(const ModelConfig& config, const LayerRange& layers, std::int64_t module) {
  const LayerRange all = module_layers(config, module);
  const std::int64_t begin = std::clamp(layers.begin, all.begin, all.end);
  const std::int64_t end = std::clamp(layers.end, begin, all.end);
  return {begin - all.begin, end - all.begin, all.size()};
}

std::string layer_name(const ModelConfig& config, std::int64_t layer) {
  const std::int64_t module = module_of(config, layer);
  const std::int64_t index = layer - module_layers(config, module).begin;
  const std::string name = module_name(config, module);
  return index == 0 && config.type == ModelType::photon ? name : fmt::format("{}.{}", name, index);
}

std::optional<std::int64_t> find_layer(const ModelConfig& config, const std::string& name) {
  const std::size_t dot = name.find('.');
  for (std::int64_t module = 0; module < num_modules(config); ++module) {
    if (module_name(config, module) != name.substr(0, dot)) continue;
    std::int64_t index = 0;
    if (dot != std::string::npos) {
      const char* const end = name.data() + name.size();
      const auto [stop, error] = std::from_chars(name.data() + dot + 1, end, index);
      if (error != std::errc() || stop != end) return std::nullopt;
    }
    const LayerRange layers = module_layers(config, module);
    if (index < 0 || index >= layers.size()) return std::nullopt;
    return layers.begin + index;
  }
  return std::nullopt;
}

std::vector<std::string> part_names(const ModelConfig& config, const LayerRange& layers) {
  std::vector<std::string> names;
  for (std::int64_t m = 0; m < num_modules(config); ++m) {
    const StackPart part = part_of(config, layers, m);
    if (part.empty()) continue;
    std::string name = module_name(config, m);
    const bool whole = part.starts() && part.ends() && config.type == ModelType::photon;
    if (!whole) name += fmt::format(".{}", part.begin);
    if (!whole && part.size() > 1) name += fmt::format("-{}", part.end - 1);
    names.push_back(std::move(name));
  }
  return names;
}

const char* embedding_name(ModelType type) {
  return type == ModelType::vanilla ? "model.embed_tokens.weight" : "embed.weight";
}

std::int64_t module_of_parameter(const ModelConfig& config, const std::string& name) {
  if (name == embedding_name(config) || config.type == ModelType::vanilla) return 0;
  if (name == "lm_head.weight") return decoder_module(config, 1);
  if (name == "start_latent") return encoder_module(config.num_levels());
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    const std::string level = fmt::format("levels.{}.", l - 1);
    if (!name.starts_with(level)) continue;
    const std::string rest = name.substr(level.size());
    const bool decodes = rest.starts_with("converter.") || rest.starts_with("decoder.");
    return decodes ? decoder_module(config, l) : encoder_module(l);
  }
  PHOTON_EXPECT(false, "{} belongs to no module", name);
  return -1;
}

namespace {

// Beginnings of the names of what a part of a stack reads.
void add_stack(std::vector<std::string>& prefixes, const StackPart& part, const std::string& stack) {
  for (std::int64_t i = part.begin; i < part.end; ++i) prefixes.push_back(fmt::format("{}layers.{}.", stack, i));
  if (part.ends()) prefixes.push_back(stack + "norm.");
}

std::vector<std::string> hosted_prefixes(const ModelConfig& config, const LayerRange& layers) {
  std::vector<std::string> prefixes;
  if (config.type == ModelType::vanilla) {
    const StackPart part = part_of(config, layers, 0);
    if (part.starts() || (part.ends() && config.tie_embeddings)) prefixes.emplace_back(embedding_name(config));
    add_stack(prefixes, part, "model.");
    if (part.ends()) prefixes.emplace_back("lm_head.");
    return prefixes;
  }
  const ChainPart part(config, layers);
  if (part.embeds() || (part.has_head() && config.tie_embeddings)) prefixes.emplace_back(embedding_name(config));
  if (part.has_head()) prefixes.emplace_back("lm_head.");
  if (part.encoder(config.num_levels()).ends()) prefixes.emplace_back("start_latent");
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    const std::string level = fmt::format("levels.{}.", l - 1);
    if (part.encoder(l).starts()) prefixes.push_back(level + "chunker.");
    if (part.decoder(l).starts()) prefixes.push_back(level + "converter.");
    add_stack(prefixes, part.encoder(l), level + "encoder.");
    add_stack(prefixes, part.decoder(l), level + "decoder.");
  }
  return prefixes;
}

}  // namespace

std::vector<ParameterSpec> hosted_parameters(const ModelConfig& config, const LayerRange& layers) {
  const std::vector<ParameterSpec> all = parameters(config);
  if (layers == all_layers(config)) return all;
  const std::vector<std::string> prefixes = hosted_prefixes(config, layers);
  std::vector<ParameterSpec> hosted;
  std::int64_t next = 0;     // first free element of the new layout
  std::int64_t behind = -1;  // where the old layout went on behind the last tensor taken
  for (const ParameterSpec& spec : all) {
    if (std::none_of(prefixes.begin(), prefixes.end(), [&](const auto& p) { return spec.name.starts_with(p); }))
      continue;
    // Tensors that lie gap-free behind each other stay so.
    if (spec.offset != behind) next = (next + parameter_alignment - 1) / parameter_alignment * parameter_alignment;
    behind = spec.offset + spec.numel();
    hosted.push_back(spec);
    hosted.back().offset = next;
    next += spec.numel();
  }
  return hosted;
}

ChainPart::ChainPart(const ModelConfig& config, const LayerRange& layers)
    : layers_(layers), num_levels_(config.num_levels()), first_decoder_(first_decoder_layer(config)) {
  PHOTON_EXPECT(config.type == ModelType::photon, "a vanilla model has no levels");
  for (std::int64_t l = 1; l <= num_levels_; ++l) {
    encoders_.push_back(part_of(config, layers, encoder_module(l)));
    decoders_.push_back(part_of(config, layers, decoder_module(config, l)));
  }
}

}  // namespace photon
