// The models that have a name: two levels of chunks and prefixes of 4 tokens (units), one width, 32000 tokens, untied;
// and LLaMA-style models of about the same size to compare with.
#include <array>

#include "config/model_config.hpp"
#include "config/nearest.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::int64_t preset_vocabulary = 32000;

struct PhotonPreset {
  const char* name;
  std::int64_t width, heads, ffn;
  std::array<std::int64_t, 4> layers;  // encoder 1, encoder 2, decoder 2, decoder 1
};
constexpr std::array photon_presets{
    PhotonPreset{"photon-60m", 512, 8, 1408, {3, 3, 2, 3}},
    PhotonPreset{"photon-125m", 768, 12, 2048, {3, 3, 3, 3}},
    PhotonPreset{"photon-600m", 1536, 12, 4096, {4, 4, 4, 4}},
    PhotonPreset{"photon-900m", 1792, 14, 4864, {5, 5, 4, 4}},
    PhotonPreset{"photon-1.2b", 2048, 16, 5632, {5, 5, 5, 5}},
    PhotonPreset{"photon-7b", 4096, 32, 11008, {8, 8, 8, 8}},
};

struct VanillaPreset {
  const char* name;
  std::int64_t width, heads, ffn, layers;
};
constexpr std::array vanilla_presets{
    VanillaPreset{"vanilla-600m", 1536, 12, 4096, 18},
    VanillaPreset{"vanilla-900m", 1792, 14, 4864, 21},
    VanillaPreset{"vanilla-1.2b", 2048, 16, 5632, 22},
};

StackConfig stack(std::int64_t layers, std::int64_t heads, std::int64_t ffn) {
  StackConfig c;
  c.layers = layers;
  c.heads = heads;
  c.ffn = ffn;
  return c;
}

ModelConfig make(const PhotonPreset& p) {
  ModelConfig c;
  c.vocab_size = preset_vocabulary;
  c.dim = p.width;
  const auto [encoder1, encoder2, decoder2, decoder1] = p.layers;
  for (const auto& [encoder_layers, decoder_layers] : {std::pair{encoder1, decoder1}, std::pair{encoder2, decoder2}}) {
    LevelConfig level;
    level.dim = p.width;
    level.chunk = 4;
    level.prefix = 4;
    level.encoder = stack(encoder_layers, p.heads, p.ffn);
    level.decoder = stack(decoder_layers, p.heads, p.ffn);
    c.levels.push_back(level);
  }
  return c;
}

ModelConfig make(const VanillaPreset& p) {
  ModelConfig c;
  c.type = ModelType::vanilla;
  c.vocab_size = preset_vocabulary;
  c.dim = p.width;
  c.stack = stack(p.layers, p.heads, p.ffn);
  return c;
}

}  // namespace

ModelConfig preset(const std::string& name) {
  const auto find_in = [&](const auto& presets, ModelConfig& result) {
    for (const auto& p : presets) {
      if (name != p.name) continue;
      result = make(p);
      validate(result);
      return true;
    }
    return false;
  };
  ModelConfig result;
  if (find_in(photon_presets, result) || find_in(vanilla_presets, result)) return result;
  throw InputError(fmt::format("unknown preset {}", name),
                   fmt::format("the presets are {}", fmt::join(preset_names(), ", ")),
                   fmt::format("did you mean {}?", nearest(name, preset_names())));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const auto& p : photon_presets) names.emplace_back(p.name);
  for (const auto& p : vanilla_presets) names.emplace_back(p.name);
  return names;
}

}  // namespace photon
