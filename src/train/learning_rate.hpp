// The learning rate as a pure function of the step.
#pragma once

#include <cstdint>

#include "config/run_config.hpp"

namespace photon {

// Steps count from 1. Linear warm-up (step 1 takes learning_rate / warmup_steps, step warmup_steps the whole of it),
// then
//   cosine: half a cosine from learning_rate down to min_learning_rate, reached at the last step;
//   wsd:    constant, then linear to min_learning_rate over the last decay_fraction of the steps.
// Steps after the last take min_learning_rate.
double learning_rate(const TrainConfig& config, std::int64_t step);

}  // namespace photon
