// The plan: which rank hosts what, and how the batch of a step is dealt to replicas and microbatches.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "config/run_config.hpp"

namespace photon {

// A rank's place in the layout. Today every rank hosts the whole model, so it is a replica by itself.
struct RankRole {
  std::int64_t replica = 0;
  std::int64_t stage = 0;
  std::int64_t shard = 0;
};

struct Plan {
  std::int64_t replicas = 1;
  std::int64_t stages = 1;
  std::int64_t shards = 1;
  std::int64_t batch_size = 0;       // sequences a step over all ranks
  std::int64_t microbatch_size = 0;  // sequences a forward and backward on one replica
  std::vector<RankRole> ranks;

  std::int64_t sequences_per_replica() const { return batch_size / replicas; }
  std::int64_t num_microbatches() const { return sequences_per_replica() / microbatch_size; }
  // First sequence of a microbatch of this rank's replica within the step's batch: replicas take contiguous slices.
  std::int64_t first_sequence(std::int64_t rank, std::int64_t microbatch) const;
};

// Memory that a microbatch of the given number of sequences takes for activations and scratch, bytes.
using ArenaBytes = std::function<std::int64_t(std::int64_t)>;

// The largest divisor of `sequences` whose arena fits the budget; 1 when none does.
std::int64_t choose_microbatch_size(std::int64_t sequences, std::int64_t budget_bytes, const ArenaBytes& arena_bytes);

// Plans `config` for `num_ranks` ranks. parallel.microbatch_size 0 is chosen by `arena_bytes` within `budget_bytes`.
// Errors: InputError naming the keys and numbers for layouts that are not supported or do not divide.
Plan make_plan(const RunConfig& config, std::int64_t num_ranks, std::int64_t budget_bytes,
               const ArenaBytes& arena_bytes);

}  // namespace photon
