// A model divided between a coarse rank and its shards, and rows that draw in every way.
#pragma once

#include <memory>
#include <vector>

#include "blueprint/modules.hpp"
#include "model/chunk_server.hpp"
#include "model/photon_share.hpp"
#include "model_runs.hpp"

namespace photon::testing {

inline std::unique_ptr<PhotonShare> share_of(const Model& model, const LayerRange& layers) {
  auto share = std::make_unique<PhotonShare>(model.config(), layers, Space::host);
  for (const ParameterSpec& spec : share->parameters().specs())
    copy(model.parameters().view(spec.name), share->parameters().view(spec.name));
  return share;
}

// Greedy and drawn, with every option of sampling, several samples of a prompt, prompts of every length.
inline std::vector<Request> all_ways(const ModelConfig& config) {
  std::vector<Request> rows = requests(config, 0.9);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    GenerationOptions& options = rows[i].options;
    SamplingOptions& sampling = options.sampling;
    if (i % 4 == 0) sampling.temperature = 0;
    if (i % 3 == 0) sampling.repetition_penalty = 1.3;
    if (i % 5 == 1) sampling.top_k = 4;
    if (i % 5 == 2) sampling.top_p = 0.7;
    if (i % 5 == 3) sampling.min_p = 0.05;
    if (i % 4 == 2) options.num_samples = 3;
    options.seed = i;
  }
  return rows;
}

}  // namespace photon::testing
