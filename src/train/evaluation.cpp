#include "train/evaluation.hpp"

#include <chrono>
#include <numbers>

#include "train/loss_totals.hpp"

namespace photon {

RecLossOptions rec_loss_options(const TrainConfig& config) {
  return {.distance = config.rec_distance, .stop_gradient = config.rec_stop_gradient};
}

std::optional<ValidationResult> evaluate_validation(const MeasureLoss& measure, const ValidationData& data,
                                                    const RunConfig& config, std::int64_t batch_size,
                                                    std::int64_t replica, std::int64_t replicas, Communicator& comm,
                                                    const std::function<bool()>& stop) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const std::vector<ValidationBatch> batches = data.batches(config.train.eval_sequences, batch_size);
  LossTotals totals(config.model);
  Sequences sequences;
  for (std::size_t round = 0; round < batches.size(); round += static_cast<std::size_t>(replicas)) {
    if (comm.all_reduce(std::int64_t{stop() ? 1 : 0}, Reduction::max) != 0) return std::nullopt;
    const std::size_t mine = round + static_cast<std::size_t>(replica);
    if (mine >= batches.size()) continue;
    data.load(batches[mine], sequences);
    totals.add(measure(sequences.part(0, sequences.count())));
  }
  totals.all_reduce(comm);
  ValidationResult result;
  result.ce = totals.ce();
  result.rec = totals.rec();
  result.loss = result.ce + config.train.alpha * result.rec;
  result.bits_per_byte = result.ce / std::numbers::ln2 * data.tokens_per_byte();
  result.num_tokens = totals.num_tokens();
  result.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return result;
}

}  // namespace photon
