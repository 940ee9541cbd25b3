// Every parameter of a model as a value: name, shape, initial distribution, place in the flat buffers. The model
// allocates from it, checkpoints name tensors by it, the partition counts from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/model_config.hpp"

namespace photon {

struct ParameterSpec {
  std::string name;                 // as in model.safetensors
  std::vector<std::int64_t> shape;  // linear weights are [out, in]
  double init_std = 0.0;            // normal with this standard deviation ...
  double init_value = 0.0;          // ... around this value (1 for norms)
  bool decays = false;              // weight decay: matrices only
  std::int64_t offset = 0;          // first element in the flat buffers

  std::int64_t numel() const;
};

// All parameters in the order of the flat buffers. q_proj, k_proj and v_proj of a layer lie gap-free behind each other,
// so do gate_proj and up_proj: each such run is one matrix product. Other starts are aligned to `parameter_alignment`
// elements.
std::vector<ParameterSpec> parameters(const ModelConfig& config);
inline constexpr std::int64_t parameter_alignment = 64;  // elements

// Elements of a flat buffer, padding included; and parameters alone.
std::int64_t flat_size(const std::vector<ParameterSpec>& specs);
std::int64_t num_parameters(const ModelConfig& config);
// Elements of a flat buffer that holds the vectors (norms) alone, each start aligned.
std::int64_t vectors_size(const std::vector<ParameterSpec>& specs);

// Names of a stack's tensors below `prefix`, e.g. "levels.0.encoder." ->
// "levels.0.encoder.layers.3.attn.q_proj.weight".
struct LayerNames {
  std::string attn_norm, q_proj, k_proj, v_proj, o_proj, mlp_norm, gate_proj, up_proj, down_proj;
};
// `vanilla` selects Llama's names ("model.layers.0.self_attn.q_proj.weight").
LayerNames layer_names(const std::string& stack_prefix, std::int64_t layer, bool vanilla);

}  // namespace photon
