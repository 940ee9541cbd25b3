#include "train/loss_totals.hpp"

#include <algorithm>
#include <numeric>

namespace photon {

LossTotals::LossTotals(const ModelConfig& config)
    : values_(static_cast<std::size_t>(2 + 2 * std::max<std::int64_t>(config.num_levels() - 1, 0))) {}

void LossTotals::add(const LossSums& sums) {
  PHOTON_EXPECT(values_.size() == 2 + 2 * sums.rec.size() && sums.rec.size() == sums.num_units.size(),
                "sums of {} recursive terms and {} counts for {} totals", sums.rec.size(), sums.num_units.size(),
                values_.size());
  values_[0] += sums.ce;
  values_[1] += static_cast<double>(sums.num_tokens);
  for (std::size_t l = 0; l < sums.rec.size(); ++l) {
    values_[2 + 2 * l] += sums.rec[l];
    values_[3 + 2 * l] += static_cast<double>(sums.num_units[l]);
  }
}

void LossTotals::all_reduce(Communicator& comm) {
  comm.all_reduce(host_view(values_.data(), {static_cast<std::int64_t>(values_.size())}), Reduction::sum);
}

double LossTotals::ce() const {
  return values_[1] == 0 ? 0 : values_[0] / values_[1];
}

std::vector<double> LossTotals::rec_levels() const {
  std::vector<double> levels;
  for (std::size_t i = 2; i < values_.size(); i += 2) {
    levels.push_back(values_[i + 1] == 0 ? 0 : values_[i] / values_[i + 1]);
  }
  return levels;
}

double LossTotals::rec() const {
  const std::vector<double> levels = rec_levels();
  return std::accumulate(levels.begin(), levels.end(), 0.0);
}

}  // namespace photon
