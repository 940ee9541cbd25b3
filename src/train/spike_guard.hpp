// Steps whose gradient is far larger than those of the steps before: a broken batch, or the beginning of a divergence.
#pragma once

#include <cstdint>

namespace photon {

class SpikeGuard {
 public:
  static constexpr std::int64_t num_first = 20;  // steps that it only looks at
  static constexpr double share = 0.02;          // of a new norm in the mean: about the last 50 steps

  SpikeGuard() = default;
  // With what was kept of an earlier start.
  SpikeGuard(double factor, double log_mean, std::int64_t count)
      : factor_(factor), log_mean_(log_mean), count_(count) {}

  // Whether a step with this finite norm is to be left out: it is more than `factor` times the geometric mean of those
  // before (0: never). Takes the norm into that mean, in which one of any size counts little, such as those of the
  // first steps; norms that stay high are believed within some 50 steps.
  bool skips(double norm);

  double log_mean() const { return log_mean_; }
  std::int64_t count() const { return count_; }  // norms taken in

 private:
  double factor_ = 0;
  double log_mean_ = 0;
  std::int64_t count_ = 0;
};

}  // namespace photon
