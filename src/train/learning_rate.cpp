#include "train/learning_rate.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "support/error.hpp"

namespace photon {

double learning_rate(const TrainConfig& config, std::int64_t step) {
  PHOTON_EXPECT(step >= 1, "the learning rate of step {}", step);
  const double peak = config.learning_rate;
  const double floor = config.min_learning_rate;
  const auto at = static_cast<double>(step);
  const auto warmup = static_cast<double>(config.warmup_steps);
  const auto last = static_cast<double>(config.steps);
  if (step <= config.warmup_steps) return peak * at / warmup;
  if (step >= config.steps) return floor;
  if (config.schedule == Schedule::cosine) {
    const double progress = (at - warmup) / (last - warmup);
    return floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
  }
  const double decay_begin = std::max(warmup, last - std::round(config.decay_fraction * last));
  if (at <= decay_begin) return peak;
  return peak + (floor - peak) * (at - decay_begin) / (last - decay_begin);
}

}  // namespace photon
