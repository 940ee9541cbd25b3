// Sums of losses over microbatches and ranks, and their means.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"
#include "model/model.hpp"

namespace photon {

class LossTotals {
 public:
  explicit LossTotals(const ModelConfig& config);

  void add(const LossSums& sums);
  void all_reduce(Communicator& comm);

  std::int64_t num_tokens() const { return static_cast<std::int64_t>(values_[1]); }
  double ce() const;                       // mean over the counted tokens, nats; 0 without any
  std::vector<double> rec_levels() const;  // mean distance at level l = 1 .. L-1
  double rec() const;                      // their sum

 private:
  // [ce sum, tokens, (distance sum, units) of each level]: doubles hold the counts exactly up to 2^53.
  std::vector<double> values_;
};

}  // namespace photon
