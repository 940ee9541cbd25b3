// The latents that tokens are decoded from, c(1) .. c(L) (docs/model.md), teacher-forced and under RecGen: what `photon
// drift` compares.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/photon_model.hpp"

namespace photon {

// Y(0) and the conditioning of a batch on one path. B sequences, T' = T on whole groups, M_l = T' / C_<=l.
struct PathStates {
  Tensor hidden;                                 // [B, T', D_0], RecGen: [B, T, D_0]; where and as the model computes
  std::vector<std::vector<float>> conditioning;  // level l at l - 1: c(l) [B, M_l, D_l]
  std::vector<std::int64_t> units;               // M_l of level l at l - 1
  std::vector<std::int64_t> widths;              // D_l likewise

  // c(l) of unit `unit` of row `row`: D_l values.
  std::span<const float> latent(std::int64_t level, std::int64_t row, std::int64_t unit) const;
};

// HierGen, with whatever windows the model has.
PathStates teacher_forced_states(PhotonModel& model, const Context& ctx, const Batch& batch);

// RecGen from prompts of prompt_tokens[b] tokens. The groups before a prompt's rounded end are HierGen's. Errors:
// InputError unless L >= 2 and lookback = 0.
PathStates recgen_states(PhotonModel& model, const Context& ctx, const Batch& batch,
                         std::span<const std::int64_t> prompt_tokens);

// dot / (|a| |b|); 1 for equal vectors (zeros too), 0 where only one is zero. NaN stays NaN.
double cosine(std::span<const float> a, std::span<const float> b);

}  // namespace photon
