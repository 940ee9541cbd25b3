// Likelihoods in double, a token at a time, from the model's states.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../model/shapes.hpp"
#include "model/incremental.hpp"

namespace photon::testing {

struct TokenScores {
  std::vector<std::vector<double>> logits;  // [tokens][V]
  std::vector<double> logprobs;
  std::vector<bool> greedy;
};

// Of one sequence; prompt < 0: HierGen, else RecGen from a prompt of that length.
inline TokenScores score_reference(Model& model, const std::vector<std::int32_t>& tokens, std::int64_t prompt) {
  TokenScores scores;
  if (tokens.empty()) return scores;
  const auto n = static_cast<std::int64_t>(tokens.size());
  const Batch batch{host_view(tokens.data(), {1, n}), {}};
  Context ctx;
  ctx.numerics = Numerics::deterministic;
  const std::vector<std::int64_t> prompts{prompt};
  const Tensor hidden = prompt < 0 ? model.hidden(ctx, batch) : recgen_hidden(model, ctx, batch, prompts);
  const std::int64_t width = model.config().dim;
  const std::int64_t vocab = model.config().vocab_size;
  const float* head = model.head_weight().host<float>();
  for (std::int64_t i = 0; i < n; ++i) {
    std::vector<double> logits(static_cast<std::size_t>(vocab), 0.0);
    double sum = 0;
    for (std::int64_t v = 0; v < vocab; ++v) {
      double& logit = logits[static_cast<std::size_t>(v)];
      for (std::int64_t d = 0; d < width; ++d) {
        logit += static_cast<double>(hidden.host<float>()[i * width + d]) * static_cast<double>(head[v * width + d]);
      }
      sum += std::exp(logit);
    }
    const double own = logits[static_cast<std::size_t>(tokens[static_cast<std::size_t>(i)])];
    scores.logprobs.push_back(own - std::log(sum));
    scores.greedy.push_back(own >= *std::max_element(logits.begin(), logits.end()));
    scores.logits.push_back(std::move(logits));
  }
  return scores;
}

}  // namespace photon::testing
