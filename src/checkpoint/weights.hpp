// Weights folders: config.json, model.safetensors (or shards with an index), the tokenizer's file (docs/formats.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "checkpoint/safetensors.hpp"
#include "config/model_config.hpp"
#include "model/parameters.hpp"

namespace photon {

// Which of a model's parameters are read, from hosted_parameters() or parameters(). May refuse the model by throwing.
using WantedParameters = std::function<std::vector<ParameterSpec>(const ModelConfig& config)>;
inline std::vector<ParameterSpec> all_parameters(const ModelConfig& config) {
  return parameters(config);
}

// A model as it was found on disk.
struct LoadedModel {
  ModelConfig config;
  Parameters parameters;         // host, fp32: those wanted
  std::filesystem::path folder;  // where config.tokenizer is looked for
  std::int64_t step = -1;        // of the training run; -1: not known
};

// Writes a weights folder beside `folder` and gives it its name when it is complete, replacing a weights folder of that
// name. `tokenizer_file` is copied under the name config.tokenizer says; "byte" and "" need none. Parameters in host
// memory. Errors: InputError when `folder` exists and is no weights folder, or the tokenizer's file cannot be read;
// Error when writing fails, with what was written removed. Fault points: "weights.begin", "weights.data",
// "weights.rename", "weights.done".
void save_weights_folder(const std::filesystem::path& folder, const ModelConfig& config, const Parameters& parameters,
                         DType dtype = DType::f32, const std::filesystem::path& tokenizer_file = {},
                         std::uint64_t shard_bytes = default_shard_bytes);

// Reads a weights folder, of its tensors those wanted. Checksums are checked where the files record them. Errors:
// InputError naming the first missing, unknown or misshaped tensor, a damaged one, or the key of config.json that is
// wrong.
LoadedModel load_weights(const std::filesystem::path& folder, const WantedParameters& wanted = all_parameters);

// Reads every byte. Returns what is wrong, in words; empty when the folder is whole.
std::vector<std::string> verify_weights(const std::filesystem::path& folder);

// One number for all values: equal weights have equal hashes, in whatever files they lie. 16 hexadecimal digits.
std::string weights_hash(const Parameters& parameters);

// The pieces that other forms of folders share.
std::vector<NamedTensor> named_tensors(const Parameters& parameters);
// Fills `parameters` from `files`, which must hold exactly its tensors.
void read_parameters(const WeightFiles& files, const std::filesystem::path& folder, Parameters& parameters);
// The tokenizer's file in `folder` by config.tokenizer; empty where none is needed. Errors: InputError when it is
// missing or its name leads out of the folder.
std::filesystem::path tokenizer_path(const ModelConfig& config, const std::filesystem::path& folder);
// Copies a tokenizer's file and makes it last. Errors: InputError when `from` cannot be read.
void copy_tokenizer(const std::filesystem::path& from, const std::filesystem::path& to);
// Runs `write` on a new folder beside `folder`, then publishes it under that name; whatever fails, nothing is left
// behind. An existing folder is replaced when it holds a config.json. Fault points as save_weights_folder.
void write_folder(const std::filesystem::path& folder, const std::function<void(const std::filesystem::path&)>& write);

}  // namespace photon
