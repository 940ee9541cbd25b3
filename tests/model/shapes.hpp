// Small models of many shapes, and batches to run them on.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "model/model.hpp"
#include "support/random.hpp"

namespace photon::testing {

struct NamedConfig {
  std::string name;
  ModelConfig config;
};
inline std::ostream& operator<<(std::ostream& out, const NamedConfig& c) {
  return out << c.name;
}

inline StackConfig stack(std::int64_t layers, std::int64_t heads, std::int64_t kv_heads, std::int64_t ffn,
                         std::int64_t window = 0) {
  StackConfig s;
  s.layers = layers;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.ffn = ffn;
  s.window = window;
  return s;
}

inline ModelConfig photon_config(std::int64_t vocab, std::int64_t dim, std::vector<LevelConfig> levels) {
  ModelConfig c;
  c.vocab_size = vocab;
  c.dim = dim;
  c.levels = std::move(levels);
  c.tokenizer = "tokenizer.model";
  validate(c);
  return c;
}

// L = 1, 2, 3; unequal widths, chunks and prefixes; grouped queries; windows; lookback; tied head; vanilla.
inline std::vector<NamedConfig> all_shapes() {
  std::vector<NamedConfig> shapes;
  shapes.push_back({"block", photon_config(29, 16, {{24, 4, 2, stack(2, 2, 2, 20), stack(2, 2, 2, 28)}})});
  shapes.push_back({"two_levels", photon_config(31, 16,
                                                {{16, 4, 4, stack(2, 2, 2, 24), stack(2, 2, 2, 24)},
                                                 {16, 4, 4, stack(2, 2, 2, 24), stack(1, 2, 2, 24)}})});
  shapes.push_back({"unequal", photon_config(23, 12,
                                             {{20, 3, 2, stack(1, 2, 1, 17), stack(2, 3, 1, 19)},
                                              {28, 2, 3, stack(2, 2, 2, 13), stack(1, 5, 5, 11)}})});
  shapes.push_back({"three_levels", photon_config(19, 8,
                                                  {{12, 2, 1, stack(1, 2, 2, 10), stack(1, 2, 2, 12)},
                                                   {16, 3, 2, stack(1, 4, 2, 14), stack(1, 3, 3, 10)},
                                                   {20, 2, 2, stack(1, 2, 2, 16), stack(2, 4, 2, 9)}})});
  shapes.push_back({"windowed", photon_config(17, 8,
                                              {{12, 2, 2, stack(2, 2, 2, 10, 3), stack(1, 2, 2, 12)},
                                               {16, 2, 1, stack(2, 4, 1, 14, 2), stack(1, 3, 3, 10)}})});
  NamedConfig lookback{"lookback", photon_config(17, 8,
                                                 {{12, 3, 2, stack(1, 2, 2, 10), stack(2, 2, 2, 12)},
                                                  {16, 2, 1, stack(1, 4, 2, 14), stack(1, 3, 3, 10)}})};
  lookback.config.lookback = 5;  // more than a chunk, so that it spans groups
  lookback.config.tie_embeddings = true;
  validate(lookback.config);
  shapes.push_back(lookback);
  NamedConfig vanilla{"vanilla", {}};
  vanilla.config.type = ModelType::vanilla;
  vanilla.config.vocab_size = 27;
  vanilla.config.dim = 16;
  vanilla.config.stack = stack(2, 4, 2, 24);
  vanilla.config.tokenizer = "tokenizer.model";
  validate(vanilla.config);
  shapes.push_back(vanilla);
  return shapes;
}

inline std::vector<NamedConfig> photon_shapes() {
  std::vector<NamedConfig> shapes = all_shapes();
  shapes.pop_back();
  return shapes;
}

inline std::vector<NamedConfig> recgen_shapes() {
  std::vector<NamedConfig> shapes;
  for (const NamedConfig& s : photon_shapes()) {
    if (s.config.num_levels() >= 2 && s.config.lookback == 0) shapes.push_back(s);
  }
  return shapes;
}

// Weights large enough that every part of the model matters to the result.
inline std::unique_ptr<Model> random_model(const ModelConfig& config, std::uint64_t seed,
                                           std::int32_t start_token = 1) {
  std::unique_ptr<Model> model = make_model(config, Space::host, start_token);
  for (const ParameterSpec& spec : model->parameters().specs()) {
    float* const values = model->parameters().view(spec.name).host<float>();
    const double scale = spec.shape.size() == 1 ? 0.2 : 0.9 / std::sqrt(static_cast<double>(spec.shape.back()));
    for (std::int64_t i = 0; i < spec.numel(); ++i) {
      values[i] = static_cast<float>(spec.init_value +
                                     scale * random_normal(seed, hash_name(spec.name), static_cast<std::uint64_t>(i)));
    }
  }
  return model;
}

// B rows of T tokens.
struct TokenBatch {
  TokenBatch(std::int64_t b, std::int64_t t, std::int64_t vocab, std::uint64_t seed) : rows(b), length(t) {
    for (std::int64_t i = 0; i < b * t; ++i) {
      ids.push_back(static_cast<std::int32_t>(random_bits(seed, 99, static_cast<std::uint64_t>(i)) %
                                              static_cast<std::uint64_t>(vocab)));
    }
  }
  Batch batch() const { return {host_view(ids.data(), {rows, length}), {}}; }
  std::vector<int> row(std::int64_t b) const { return {ids.begin() + b * length, ids.begin() + (b + 1) * length}; }

  std::int64_t rows;
  std::int64_t length;
  std::vector<std::int32_t> ids;
};

}  // namespace photon::testing
