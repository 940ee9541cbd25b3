// Folders that the Hugging Face libraries open as LlamaForCausalLM, both ways. photon keeps RoPE in the same half-split
// layout and vanilla's tensors under the same names, so that weights pass unchanged.
#pragma once

#include <cstdint>
#include <filesystem>

#include "checkpoint/weights.hpp"

namespace photon {

// Ids the folder tells others about; -1: not known, left out.
struct LlamaTokens {
  std::int64_t bos = -1;
  std::int64_t eos = -1;
  std::int64_t pad = -1;
};

// Largest length an exported model without max_length claims: up to here both sides agree on the angles of RoPE.
inline constexpr std::int64_t llama_max_positions = 4096;

// Writes config.json, model.safetensors (shards above 5 GB) and the tokenizer's file, by write_folder's protocol.
// `tokenizer_file` as in save_weights_folder. Errors: InputError for a model that is not vanilla.
void export_llama(const std::filesystem::path& folder, const ModelConfig& config, const Parameters& parameters,
                  DType dtype, const LlamaTokens& tokens, const std::filesystem::path& tokenizer_file = {});

// Whether config.json of a folder says it is one of these, of whatever architecture.
bool is_hugging_face_folder(const std::filesystem::path& folder);

// Reads such a folder as a vanilla model. A SentencePiece tokenizer.model in it becomes the model's tokenizer; another
// kind is left behind with a warning. Errors: InputError naming the key of config.json that asks for what photon does
// not compute (rope_scaling, biases, other activations or architectures, head_dim other than hidden_size /
// num_attention_heads, quantization), or as load_weights.
LoadedModel import_llama(const std::filesystem::path& folder);

}  // namespace photon
