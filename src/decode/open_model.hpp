// A model ready to be used: weights, tokenizer, context.
#pragma once

#include <filesystem>
#include <memory>

#include "model/model.hpp"
#include "tokenizer/tokenizer.hpp"

namespace photon {

struct OpenModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;  // null when the model names none
  std::filesystem::path folder;          // of the weights
  std::int64_t step = -1;                // of the training run; -1: not known

  const ModelConfig& config() const { return model->config(); }
  std::int32_t eos() const { return tokenizer ? tokenizer->eos() : -1; }
};

// From what --model names (checkpoint/checkpoint.hpp). Errors: InputError for a folder that holds no model, or a
// tokenizer with more ids than the model has. `space` and `dtype` as make_model() takes them.
OpenModel open_model(const std::filesystem::path& path, Space space = Space::host, DType dtype = DType::f32);

// With fresh weights: for measurements.
OpenModel fresh_model(const ModelConfig& config, std::uint64_t seed, Space space = Space::host,
                      DType dtype = DType::f32);

// What stands before the first token of a vanilla model.
std::int32_t start_token(const ModelConfig& config, const Tokenizer* tokenizer);

// "deterministic" | "tuned". Errors: InputError.
Numerics parse_numerics(const std::string& name);

}  // namespace photon
