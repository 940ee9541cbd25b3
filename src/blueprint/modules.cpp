#include "blueprint/modules.hpp"

#include <algorithm>

#include "support/error.hpp"

namespace photon {

std::int64_t num_modules(const ModelConfig& config) {
  return config.type == ModelType::vanilla ? 1 : 2 * config.num_levels();
}

ModuleRange all_modules(const ModelConfig& config) {
  return {0, num_modules(config)};
}

std::int64_t encoder_module(std::int64_t l) {
  return l - 1;
}

std::int64_t decoder_module(const ModelConfig& config, std::int64_t l) {
  return 2 * config.num_levels() - l;
}

std::string module_name(const ModelConfig& config, std::int64_t module) {
  PHOTON_EXPECT(module >= 0 && module < num_modules(config), "module {} of {}", module, num_modules(config));
  if (config.type == ModelType::vanilla) return "model";
  const std::int64_t num_levels = config.num_levels();
  return module < num_levels ? fmt::format("encoder{}", module + 1) : fmt::format("decoder{}", 2 * num_levels - module);
}

std::optional<std::int64_t> find_module(const ModelConfig& config, const std::string& name) {
  for (std::int64_t module = 0; module < num_modules(config); ++module) {
    if (module_name(config, module) == name) return module;
  }
  return std::nullopt;
}

std::vector<ParameterSpec> hosted_parameters(const ModelConfig& config, const ModuleRange& modules) {
  const std::vector<ParameterSpec> all = parameters(config);
  if (modules == all_modules(config)) return all;
  std::vector<std::string> prefixes;
  const bool first = modules.contains(encoder_module(1));
  const bool last = modules.contains(decoder_module(config, 1));
  if (first || last) prefixes.emplace_back("embed.weight");
  if (last) prefixes.emplace_back("lm_head.weight");
  if (modules.contains(encoder_module(config.num_levels()))) prefixes.emplace_back("start_latent");
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    const std::string level = fmt::format("levels.{}.", l - 1);
    if (modules.contains(encoder_module(l))) {
      prefixes.push_back(level + "chunker.");
      prefixes.push_back(level + "encoder.");
    }
    if (modules.contains(decoder_module(config, l))) {
      prefixes.push_back(level + "converter.");
      prefixes.push_back(level + "decoder.");
    }
  }
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

}  // namespace photon
