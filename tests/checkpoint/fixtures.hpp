// Small models for tests of files.
#pragma once

#include <cstring>

#include "config/model_config.hpp"
#include "model/parameters.hpp"
#include "support/random.hpp"

namespace photon::testing {

// Two levels of unequal widths, so that a swapped name or shape shows.
inline ModelConfig small_photon() {
  ModelConfig config;
  config.vocab_size = 11;
  config.dim = 8;
  config.tokenizer = "";
  config.levels.resize(2);
  config.levels[0] = {12, 2, 3, {1, 2, 2, 10, 10000.0, 0}, {1, 2, 1, 6, 10000.0, 0}};
  config.levels[1] = {16, 3, 1, {2, 4, 2, 10, 5000.0, 0}, {1, 2, 2, 14, 10000.0, 0}};
  validate(config);
  return config;
}

inline ModelConfig small_vanilla(bool tied = false) {
  ModelConfig config;
  config.type = ModelType::vanilla;
  config.vocab_size = 13;
  config.dim = 16;
  config.tie_embeddings = tied;
  config.stack = {2, 4, 2, 20, 20000.0, 0};
  validate(config);
  return config;
}

// Values that tell every element of every tensor and seed apart. Serial: threads would not survive the tests' forks.
inline void fill(const Parameters& parameters, std::uint64_t seed) {
  for (const ParameterSpec& spec : parameters.specs()) {
    auto* const values = parameters.view(spec.name).host<float>();
    const std::uint64_t stream = hash_name(spec.name);
    for (std::int64_t i = 0; i < spec.numel(); ++i) {
      values[i] = static_cast<float>(random_uniform(seed, stream, static_cast<std::uint64_t>(i)) - 0.5);
    }
  }
}

inline Parameters random_parameters(const ModelConfig& config, std::uint64_t seed) {
  Parameters parameters(config, Space::host);
  fill(parameters, seed);
  return parameters;
}

inline bool same_bits(const Parameters& a, const Parameters& b) {
  return a.flat().numel() == b.flat().numel() &&
         std::memcmp(a.flat().data(), b.flat().data(), static_cast<std::size_t>(a.flat().bytes())) == 0;
}

}  // namespace photon::testing
