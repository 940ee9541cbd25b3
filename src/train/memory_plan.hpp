// Does a run fit this machine: predicted bytes a rank beside what there is.
#pragma once

#include <cstdint>
#include <string>

#include "config/run_config.hpp"

namespace photon {

// Bytes a rank needs, by category.
struct MemoryPlan {
  std::int64_t weights = 0;
  std::int64_t gradients = 0;
  std::int64_t optimizer = 0;  // two moments
  std::int64_t arena = 0;      // activations and scratch of one microbatch
  std::int64_t total() const { return weights + gradients + optimizer + arena; }
};

MemoryPlan plan_memory(const RunConfig& config, std::int64_t microbatch_size);

// "1.5 GiB", "12.0 MiB"
std::string bytes_text(std::int64_t bytes);

// Host memory that this process may still take: what the system has available, or less where a control group limits it.
std::int64_t available_host_bytes();

// What a microbatch's arena may take when its size is chosen: half of what the weights leave, at most 4 GiB (larger
// ones are no faster on a CPU).
std::int64_t arena_budget(const RunConfig& config, std::int64_t available_bytes);

// Errors: InputError with the numbers when the plan needs more than there is.
void require_fit(const MemoryPlan& plan, std::int64_t available_bytes, std::int64_t microbatch_size);

}  // namespace photon
