// Does a run fit this machine: predicted bytes a rank beside what there is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/run_config.hpp"
#include "partition/plan.hpp"
#include "tensor/types.hpp"

namespace photon {

// Where a run computes and in what dtype its activations are.
struct TrainPlace {
  Space space = Space::host;
  DType dtype = DType::f32;
};
// By train.device and train.precision. Errors: InputError for a precision that the place does not compute in, and for
// cuda without a GPU.
TrainPlace train_place(const TrainConfig& config);

// Bytes a rank needs, by category.
struct MemoryPlan {
  std::int64_t weights = 0;  // fp32 masters, and on a GPU the bf16 copy that its ops read
  std::int64_t gradients = 0;
  std::int64_t optimizer = 0;  // two moments
  std::int64_t arena = 0;      // activations and scratch of the microbatches under way
  std::int64_t gathered = 0;   // rank 0 of a pipeline on CPUs: all weights, for model/
  std::int64_t scratch = 0;    // a GPU: workspaces of ops and libraries
  std::int64_t total() const { return weights + gradients + optimizer + arena + gathered + scratch; }
  // Besides, where there is room: host memory for the copies that are saved while the training goes on.
  std::int64_t saved_copies() const { return gradients + optimizer; }  // fp32, as the gradients
};

// Of a rank that hosts the whole model. parallel.recompute `auto` counts as `none`.
MemoryPlan plan_memory(const RunConfig& config, std::int64_t microbatch_size, const TrainPlace& place = {});
// Of a rank of this stage, with up to `num_in_flight` microbatches between their forward and backward.
MemoryPlan plan_memory(const RunConfig& config, const std::vector<StagePlan>& layout, std::int64_t stage,
                       std::int64_t num_in_flight, std::int64_t microbatch_size, const TrainPlace& place = {});
// What a microbatch of `sequences` or fewer takes at most on any rank of a stage.
std::int64_t stage_arena_bytes(const RunConfig& config, const StagePlan& stage, std::int64_t sequences, DType dtype,
                               const PassOptions& options);

// "1.5 GiB", "12.0 MiB"
std::string bytes_text(std::int64_t bytes);

// Host memory that this process may still take: what the system has available, or less where a control group limits it.
std::int64_t available_host_bytes();

// Memory of the place that this process may still take.
std::int64_t available_bytes(const TrainPlace& place);

// What a microbatch's arena may take when its size is chosen: half of what the weights leave, at most 4 GiB on the host
// and 12 GiB on a GPU (larger ones are hardly faster).
std::int64_t arena_budget(const RunConfig& config, std::int64_t available_bytes, const TrainPlace& place = {});

// Errors: InputError with the numbers when the plan needs more than there is.
void require_fit(const MemoryPlan& plan, std::int64_t available_bytes, std::int64_t microbatch_size,
                 const TrainPlace& place = {});

}  // namespace photon
