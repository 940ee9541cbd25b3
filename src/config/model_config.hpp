// What a model is: the typed form of config.json and of the `model` section of a YAML file (docs/formats.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace photon {

// Positions of a decoder's short sequence that the kernels take (kernels/group_attention.hpp).
inline constexpr std::int64_t max_decoder_positions = 64;

// One pre-norm LLaMA-style causal Transformer.
struct StackConfig {
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads =
      0;                 // grouped queries when < heads; 0 in a file means "as heads" and is resolved by validate()
  std::int64_t ffn = 0;  // width of the SwiGLU's inner layer
  double rope_theta = 10000.0;
  std::int64_t window = 0;  // positions a query sees, itself included; 0 = all earlier ones (encoders only)
};

// Level l of the hierarchy, l = 1 .. L (stored at index l - 1).
struct LevelConfig {
  std::int64_t dim = 0;     // D_l
  std::int64_t chunk = 0;   // C_l: level-(l-1) units a level-l unit summarises
  std::int64_t prefix = 0;  // R_l: conditioning vectors the converter makes of one level-l vector
  StackConfig encoder;      // width D_l
  StackConfig decoder;      // width D_{l-1}
};

enum class ModelType { photon, vanilla };

struct ModelConfig {
  ModelType type = ModelType::photon;
  std::int64_t vocab_size = 0;
  std::int64_t dim = 0;  // D_0, the token width
  bool tie_embeddings = false;
  std::int64_t lookback = 0;  // k: token embeddings before a group that the level-1 decoder also sees
  double norm_eps = 1e-5;
  std::int64_t max_length = 0;  // tokens; 0 = no limit
  std::string tokenizer;        // "byte", or the name of the tokenizer's file beside config.json
  // Vanilla: what stands before the first token where no tokenizer says it (an imported model); -1 = the tokenizer's
  // bos, or its eos where it has none. Written to config.json only when >= 0.
  std::int64_t start_token = -1;
  std::vector<LevelConfig> levels;  // photon; empty for vanilla
  StackConfig stack;                // vanilla; unused for photon

  std::int64_t num_levels() const { return static_cast<std::int64_t>(levels.size()); }
  // D_l for l = 0 .. L.
  std::int64_t width(std::int64_t level) const {
    return level == 0 ? dim : levels[static_cast<std::size_t>(level - 1)].dim;
  }
  // C_<=l = C_1 ... C_l; C_<=0 = 1.
  std::int64_t cumulative_chunk(std::int64_t level) const;
  // C_<=L: tokens a top-level unit stands for. 1 for vanilla.
  std::int64_t group_tokens() const { return cumulative_chunk(num_levels()); }
  // Top-level groups that a sequence takes, and its length where the last one is padded to a whole one.
  std::int64_t num_groups(std::int64_t tokens) const { return (tokens + group_tokens() - 1) / group_tokens(); }
  std::int64_t padded_length(std::int64_t tokens) const { return num_groups(tokens) * group_tokens(); }
  // Positions of the level-l decoder's short sequence: R_l + k_l + C_l - 1.
  std::int64_t decoder_positions(std::int64_t level) const;
  // k at level 1, 0 above.
  std::int64_t level_lookback(std::int64_t level) const { return level == 1 ? lookback : 0; }
};

bool operator==(const StackConfig& a, const StackConfig& b);
bool operator==(const LevelConfig& a, const LevelConfig& b);
bool operator==(const ModelConfig& a, const ModelConfig& b);

// Fills what 0 stands for (kv_heads) and checks everything a model needs. Errors: InputError naming the key by its
// path, e.g. "model.levels[1].encoder.heads".
void validate(ModelConfig& config);

// config.json, with every key written out. Reading: unknown keys, wrong types, missing keys and a newer format_version
// are InputErrors that name `where` (a file) and the key. What is read is validated.
std::string to_json_text(const ModelConfig& config);
ModelConfig model_config_from_json(const std::string& text, const std::string& where);

// The presets of docs/model.md by name, e.g. "photon-60m"; validated. Errors: InputError naming the nearest preset.
ModelConfig preset(const std::string& name);
std::vector<std::string> preset_names();

}  // namespace photon
