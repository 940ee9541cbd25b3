// AdamW over a model's flat buffers: the two moments, and which ranges of the buffers decay.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.hpp"
#include "model/parameters.hpp"
#include "tensor/context.hpp"

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

  // One update of the parameters. `update` counts the updates made so far plus one (bias correction); the gradients are
  // multiplied by `gradient_scale` as they are read.
  void step(const Context& ctx, Parameters& parameters, const Parameters& gradients, double learning_rate,
            double gradient_scale, std::int64_t update);

  Parameters& mean() { return mean_; }          // m, the first moment
  Parameters& variance() { return variance_; }  // v, the second

 private:
  TrainConfig config_;
  Parameters mean_;
  Parameters variance_;
  std::vector<DecayRange> ranges_;
};

}  // namespace photon
