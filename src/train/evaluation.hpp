// The model's loss on the validation files, as the trainer measures it between steps.
#pragma once

#include <functional>
#include <optional>

#include "comm/communicator.hpp"
#include "config/run_config.hpp"
#include "model/model.hpp"
#include "train/metrics.hpp"
#include "train/sequences.hpp"

namespace photon {

// The trainer's distance, as the model takes it.
RecLossOptions rec_loss_options(const TrainConfig& config);

// The sums of a batch's losses that this rank contributes to the total over all ranks.
using MeasureLoss = std::function<LossSums(const Batch&)>;

// Reads train.eval_sequences sequences of train.sequence_length (0: all) in batches of `batch_size`, dealt to the
// replicas in turn, of which this rank belongs to number `replica`; every rank of `comm` returns the same result.
// `stop` (this rank's wish) is asked before each round of batches, and one rank's wish ends the evaluation of all:
// nothing is returned then.
std::optional<ValidationResult> evaluate_validation(const MeasureLoss& measure, const ValidationData& data,
                                                    const RunConfig& config, std::int64_t batch_size,
                                                    std::int64_t replica, std::int64_t replicas, Communicator& comm,
                                                    const std::function<bool()>& stop);

}  // namespace photon
