#include "train/spike_guard.hpp"

#include <algorithm>

namespace photon {

bool SpikeGuard::skips(double norm) {
  const double limit = factor_ * mean_;
  const bool spike = factor_ > 0 && count_ >= num_first && norm > limit;
  // The first norms count alike; then the mean forgets.
  ++count_;
  const double weight = std::max(share, 1.0 / static_cast<double>(count_));
  mean_ += weight * ((spike ? limit : norm) - mean_);
  return spike;
}

}  // namespace photon
