// The chain that the stages of a pipeline are cut from: the layers of encoder 1 .. encoder L, then those of decoder L
// .. decoder 1; of a vanilla model its own. The layers of one stack are a module. What stands before a stack (embedding
// and chunker, converter) goes with its first layer, what stands behind it (final norm, shift to c(L), head, losses)
// with its last one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "config/model_config.hpp"

namespace photon {

// Layers begin .. end-1 of the chain.
struct LayerRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  bool contains(std::int64_t layer) const { return layer >= begin && layer < end; }
  std::int64_t size() const { return end - begin; }
  bool operator==(const LayerRange&) const = default;
};

// Layers begin .. end-1 of one stack of `of` layers.
struct StackPart {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t of = 0;

  std::int64_t size() const { return end - begin; }
  bool empty() const { return size() <= 0; }
  bool starts() const { return !empty() && begin == 0; }  // has the first layer
  bool ends() const { return !empty() && end == of; }     // has the last one, and the final norm
  bool operator==(const StackPart&) const = default;
};
inline StackPart whole_stack(const StackConfig& stack) {
  return {0, stack.layers, stack.layers};
}

// Top-level groups begin .. begin+count-1 of a batch, counted through its sequences: group g of sequence b is
// b * M_L + g. A tensor of level l has C_<=L / C_<=l rows for each of them. A group of a vanilla model is a token.
struct GroupRange {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  bool operator==(const GroupRange&) const = default;
};

std::int64_t num_modules(const ModelConfig& config);  // 2 L; vanilla: 1
// Where the modules of level l = 1 .. L stand in the chain.
std::int64_t encoder_module(std::int64_t l);
std::int64_t decoder_module(const ModelConfig& config, std::int64_t l);
const StackConfig& module_stack(const ModelConfig& config, std::int64_t module);
// "encoder1", "decoder2"; vanilla: "layer".
std::string module_name(const ModelConfig& config, std::int64_t module);

LayerRange module_layers(const ModelConfig& config, std::int64_t module);
LayerRange all_layers(const ModelConfig& config);
// The two sides of decoding on several ranks: all above level 1's decoder, and that decoder.
LayerRange coarse_layers(const ModelConfig& config);
LayerRange chunk_layers(const ModelConfig& config);
std::int64_t first_decoder_layer(const ModelConfig& config);
std::int64_t module_of(const ModelConfig& config, std::int64_t layer);
// What a range holds of a module's stack.
StackPart part_of(const ModelConfig& config, const LayerRange& layers, std::int64_t module);

// "encoder1" for the first layer of a module, "encoder1.2" for its layer 2 (from 0, as the weights are named); vanilla:
// "layer.2".
std::string layer_name(const ModelConfig& config, std::int64_t layer);
// Also takes "encoder1.0".
std::optional<std::int64_t> find_layer(const ModelConfig& config, const std::string& name);
// What a range holds, by module: "encoder1", "decoder2.1-3" (layers 1 to 3), "layer.0-5".
std::vector<std::string> part_names(const ModelConfig& config, const LayerRange& layers);

// The parameters that these layers read, laid out anew without gaps. The embedding belongs to encoder 1's first layer,
// to decoder 1's (which embeds the tokens of its groups itself), and where it is tied to decoder 1's last one, the
// head; every other tensor to one layer.
std::vector<ParameterSpec> hosted_parameters(const ModelConfig& config, const LayerRange& layers);
// The embedding's name.
const char* embedding_name(ModelType type);
inline const char* embedding_name(const ModelConfig& config) {
  return embedding_name(config.type);
}
// The module in whose backward pass a tensor's gradient becomes complete; the embedding's where one part holds the
// whole chain.
std::int64_t module_of_parameter(const ModelConfig& config, const std::string& name);

// What a part of a PHOTON chain has, makes and reads: X(l), and Y(l) with c(L) in the place of Y(L).
class ChainPart {
 public:
  ChainPart(const ModelConfig& config, const LayerRange& layers);

  const LayerRange& layers() const { return layers_; }
  const StackPart& encoder(std::int64_t l) const { return encoders_[static_cast<std::size_t>(l - 1)]; }
  const StackPart& decoder(std::int64_t l) const { return decoders_[static_cast<std::size_t>(l - 1)]; }
  bool has_encoders() const { return layers_.begin < first_decoder_; }
  bool embeds() const { return encoder(1).starts() || decoder(1).starts(); }
  bool has_head() const { return decoder(1).ends(); }
  bool makes_x(std::int64_t l) const { return l == 0 ? embeds() : encoder(l).ends(); }
  // The end of decoder l+1 compares its Y(l) with X(l).
  bool reads_x(std::int64_t l) const {
    return l < num_levels_ && (encoder(l + 1).starts() || decoder(l + 1).starts() || (l > 0 && decoder(l + 1).ends()));
  }
  bool makes_y(std::int64_t l) const { return l == num_levels_ ? encoder(l).ends() : decoder(l + 1).ends(); }
  bool reads_y(std::int64_t l) const { return l > 0 && decoder(l).starts(); }

 private:
  LayerRange layers_;
  std::int64_t num_levels_;
  std::int64_t first_decoder_;
  std::vector<StackPart> encoders_;  // level l at l - 1
  std::vector<StackPart> decoders_;
};

}  // namespace photon
