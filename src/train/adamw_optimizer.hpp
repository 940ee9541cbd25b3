// AdamW over a model's flat buffers: the two moments, and which ranges of the buffers decay.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.hpp"
#include "model/parameters.hpp"
#include "tensor/context.hpp"
#include "train/owned_pieces.hpp"

namespace photon {

// Elements begin .. end-1 of the flat buffers.
struct DecayRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool decays = false;

  bool operator==(const DecayRange&) const = default;
};

// The flat buffers cut where weight decay goes on or off; alignment gaps (always zero) go with what lies before them.
std::vector<DecayRange> decay_ranges(const std::vector<ParameterSpec>& specs);

class AdamWOptimizer {
 public:
  // For parameters of this layout.
  AdamWOptimizer(const std::vector<ParameterSpec>& specs, const TrainConfig& config, Space space);
  // For these pieces of them alone (parallel.zero): the moments then are laid out compact, and step() updates no other
  // elements.
  AdamWOptimizer(const std::vector<OwnedPiece>& pieces, const TrainConfig& config, Space space);

  // One update of the parameters and of their working copy. `update` counts the updates made so far plus one (bias
  // correction); the gradients are multiplied by `gradient_scale` as they are read.
  void step(const Context& ctx, Parameters& parameters, const Parameters& gradients, double learning_rate,
            double gradient_scale, std::int64_t update);

  Parameters& mean() { return mean_; }          // m, the first moment
  Parameters& variance() { return variance_; }  // v, the second

 private:
  // A run of elements that decay alike: where it begins in the parameters, and in the moments.
  struct Run {
    std::int64_t flat = 0;
    std::int64_t moment = 0;
    std::int64_t count = 0;
    bool decays = false;
  };
  TrainConfig config_;
  Parameters mean_;
  Parameters variance_;
  std::vector<Run> runs_;
};

}  // namespace photon
