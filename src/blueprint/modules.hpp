// The chain of modules that the stages of a pipeline are cut from: encoder 1 (with the embedding) .. encoder L (with
// the shift to c(L)), decoder L .. decoder 1 (with the head). Vanilla models are one module.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "config/model_config.hpp"

namespace photon {

// Modules begin .. end-1 of the chain.
struct ModuleRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  bool contains(std::int64_t module) const { return module >= begin && module < end; }
  std::int64_t size() const { return end - begin; }
  bool operator==(const ModuleRange&) const = default;
};

// Top-level groups begin .. begin+count-1 of a batch, counted through its sequences: group g of sequence b is
// b * M_L + g. A tensor of level l has C_<=L / C_<=l rows for each of them.
struct GroupRange {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  bool operator==(const GroupRange&) const = default;
};

std::int64_t num_modules(const ModelConfig& config);  // 2 L
ModuleRange all_modules(const ModelConfig& config);
// Where the modules of level l = 1 .. L stand in the chain.
std::int64_t encoder_module(std::int64_t l);
std::int64_t decoder_module(const ModelConfig& config, std::int64_t l);
// "encoder1", "decoder2"; vanilla: "model".
std::string module_name(const ModelConfig& config, std::int64_t module);
std::optional<std::int64_t> find_module(const ModelConfig& config, const std::string& name);

// The parameters that these modules read, laid out anew without gaps. embed.weight belongs to both encoder 1 and
// decoder 1 (which embeds the tokens of its groups itself, and is the head where it is tied), every other tensor to one
// module.
std::vector<ParameterSpec> hosted_parameters(const ModelConfig& config, const ModuleRange& modules);

}  // namespace photon
