#include "train/spike_guard.hpp"

#include <algorithm>
#include <cmath>

namespace photon {

bool SpikeGuard::skips(double norm) {
  if (norm <= 0) return false;  // no token counted
  const double value = std::log(norm);
  const bool spike = factor_ > 0 && count_ >= num_first && value > std::log(factor_) + log_mean_;
  // The first norms count alike; then the mean forgets.
  ++count_;
  log_mean_ += std::max(share, 1.0 / static_cast<double>(count_)) * (value - log_mean_);
  return spike;
}

}  // namespace photon
