// How far approximate decoding drifts from exact HierGen, by distance from the prompt: what `photon drift` measures.
//
// All paths are teacher-forced on the same tokens t_0 .. t_(T-1), of which the first P are the prompt. Position i >= P
// has the distance d = i - P (tokens; d = 0 is the first token after the prompt). p_i is HierGen's distribution of
// token i and q_i that of the approximation, both softmaxes of the logits without temperature. At each distance, over
// all rows that reach it:
//   agreement  share of positions at which argmax p_i = argmax q_i (of equal logits the first), 0 .. 1
//   kl         mean of KL(p_i || q_i) = sum_v p_i(v) (ln p_i(v) - ln q_i(v)), nats, >= 0
//   cosine l   mean of cos(c(l), c~(l)), the conditioning of the level-l group that token i is in, exact and
//   approximate loss       mean of -ln q_i(t_i), nats; perplexity = exp(loss)
// Approximations: RecGen from that prompt (docs/model.md), which is exact until the end of the group that the prompt
// ends in; and HierGen with other windows for all encoders below the top, from the first token on.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "model/model.hpp"

namespace photon {

// A text: tokens, of which the first `prompt` are read only.
struct DriftRow {
  std::vector<std::int32_t> tokens;
  std::int64_t prompt = 0;
  std::vector<std::uint8_t> mask;  // 1 where a token counts; empty: all after the prompt
};

struct DriftOptions {
  bool recgen = true;
  std::vector<std::int64_t> windows;  // one approximation each: units that every encoder below the top sees, >= 1
  std::int64_t bin = 1;               // distances that are taken together, tokens
  std::int64_t batch_size = 0;        // rows at once; 0: about 8192 tokens. Changes no result in deterministic numerics
};

// One position.
struct TokenDrift {
  bool agrees = false;
  double kl = 0;      // nats
  double exact = 0;   // -ln p(token), nats
  double approx = 0;  // -ln q(token)
};

// From both paths' logits [V]. Errors: Error when one is not finite.
TokenDrift compare_logits(std::span<const float> exact, std::span<const float> approx, std::int32_t token);

// Sums over positions; the means below are NaN where there is none.
struct DriftSums {
  std::int64_t num_tokens = 0;
  std::int64_t num_agreeing = 0;
  double kl = 0;
  double loss = 0;
  std::vector<double> cosine;  // level l at l - 1

  DriftSums& operator+=(const DriftSums& other);
  double mean(double sum) const;
  double agreement() const { return mean(static_cast<double>(num_agreeing)); }
  double mean_kl() const { return mean(kl); }
  double mean_loss() const { return mean(loss); }
  double mean_cosine(std::int64_t level) const { return mean(cosine.at(static_cast<std::size_t>(level - 1))); }
  double perplexity() const;
};

// One path by distance: bins of DriftOptions::bin tokens, the first one begins at distance 0.
struct PathDrift {
  std::string name;         // "hiergen", "recgen", "window 16"
  std::int64_t window = 0;  // units; 0: as the model has them
  std::vector<DriftSums> bins;
  DriftSums total;
};

struct DriftResult {
  std::int64_t num_rows = 0;
  std::int64_t bin = 1;
  std::int64_t num_levels = 0;
  PathDrift exact;  // compared with itself: agreement 1, kl 0, cosine 1
  std::vector<PathDrift> approximations;
};

// `poll` is called before every batch and may throw. Errors: InputError when the model has no such approximation (a
// vanilla or block model, RecGen with lookback), or no token counts; Error when logits are not finite.
DriftResult measure_drift(Model& model, const Context& ctx, std::span<const DriftRow> rows, const DriftOptions& options,
                          const std::function<void()>& poll);

// InputError naming why a model has nothing to compare; returns when it has. Cheap: to be asked before rows are made.
void require_drift(const ModelConfig& config, const DriftOptions& options);

}  // namespace photon
