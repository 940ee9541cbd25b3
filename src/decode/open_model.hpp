// A model ready to be used: weights, tokenizer, context.
#pragma once

#include <filesystem>
#include <memory>

#include "model/model.hpp"
#include "partition/decode_layout.hpp"
#include "tokenizer/tokenizer.hpp"

namespace photon {

class PhotonShare;

struct OpenModel {
  OpenModel();
  ~OpenModel();
  OpenModel(OpenModel&& other) noexcept;
  OpenModel& operator=(OpenModel&& other) noexcept;

  std::unique_ptr<Model> model;          // null where a rank holds ...
  std::unique_ptr<PhotonShare> share;    // ... a share of it
  std::unique_ptr<Tokenizer> tokenizer;  // null when the model names none
  std::filesystem::path folder;          // of the weights
  std::int64_t step = -1;                // of the training run; -1: not known

  const ModelConfig& config() const;
  std::int32_t eos() const { return tokenizer ? tokenizer->eos() : -1; }
};

// From what --model names (checkpoint/checkpoint.hpp). Errors: InputError for a folder that holds no model, or a
// tokenizer with more ids than the model has. `space` and `dtype` as make_model() takes them.
OpenModel open_model(const std::filesystem::path& path, Space space = Space::host, DType dtype = DType::f32);

// What a rank of a layout holds: the whole model where there are no shards, else its side's layers and nothing more.
// Errors: as open_model(), and InputError for a model without shards.
OpenModel open_model_on(const DecodeLayout& layout, int rank, const std::filesystem::path& path,
                        Space space = Space::host, DType dtype = DType::f32);

// With fresh weights: for measurements.
OpenModel fresh_model(const ModelConfig& config, std::uint64_t seed, Space space = Space::host,
                      DType dtype = DType::f32);
OpenModel fresh_model_on(const DecodeLayout& layout, int rank, const ModelConfig& config, std::uint64_t seed,
                         Space space = Space::host, DType dtype = DType::f32);

// What stands before the first token of a vanilla model.
std::int32_t start_token(const ModelConfig& config, const Tokenizer* tokenizer);

// "deterministic" | "tuned". Errors: InputError.
Numerics parse_numerics(const std::string& name);

}  // namespace photon
