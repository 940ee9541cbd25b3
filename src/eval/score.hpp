// Log-likelihoods of continuations given their contexts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "decode/engine.hpp"
#include "decode/open_model.hpp"

namespace photon {

struct ScoreOptions {
  std::filesystem::path input;                    // "-": stdin
  std::filesystem::path output;                   // "-": stdout
  std::filesystem::path logits;                   // an HDF5 file; empty: none
  GenerationMode mode = GenerationMode::hiergen;  // recgen: the context is the prompt
  std::int64_t batch_tokens = 8192;               // tokens of a batch, padding included (a longer row goes alone)
};

struct ScoreSummary {
  std::int64_t rows = 0;
  std::int64_t errors = 0;
  std::int64_t num_tokens = 0;  // scored
  double seconds = 0;
};

// Scores every row and replaces the output (and the logits file) when all is done: until then they hold what they held.
// A bad row gives an error record in its place. `poll` is called before every batch and may throw: nothing is replaced
// then.
ScoreSummary score(OpenModel& model, const Context& ctx, const ScoreOptions& options,
                   const std::function<void()>& poll);

}  // namespace photon
