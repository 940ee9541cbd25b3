// What the ranks of a plan compute, move, send and hold: from the blueprint, for any cut, in the bytes of the
// configuration's precision. The work of all ranks of a step sums up to the blueprint's training FLOPs, and those of
// recomputation where the plan has it.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.hpp"
#include "partition/cluster.hpp"
#include "partition/plan.hpp"
#include "partition/schedule.hpp"
#include "partition/sharing.hpp"
#include "partition/simulator.hpp"

namespace photon {

// Forward or backward pass over a microbatch.
struct PassCost {
  double flops = 0;
  double bytes = 0;  // read from and written to memory: weights once, activations written once and read once
};

// A module's part of a rank's work.
struct ModuleCost {
  std::int64_t module = 0;
  PassCost forward;
  PassCost backward;  // with what it recomputes; where it is split, without
  PassCost weights;   // its part for the weights of linear layers
};

// Bytes a rank holds at most.
struct MemoryUse {
  std::int64_t weights = 0;  // fp32 masters, and in bf16 the copy that ops read
  std::int64_t gradients = 0;
  std::int64_t optimizer = 0;    // two moments, or this rank's share of them
  std::int64_t activations = 0;  // arenas of the microbatches in flight, with their gradients and scratch
  std::int64_t staging = 0;      // the largest gradient on its way in; all weights where rank 0 gathers them here
  std::int64_t total() const { return weights + gradients + optimizer + activations + staging; }
};

struct RankCost {
  std::vector<ModuleCost> modules;
  std::vector<Bucket> buckets;  // of the replica's first rank in this place
  std::int64_t num_parameters = 0;
  std::int64_t updated_parameters = 0;  // by this rank: its share, or all
  std::int64_t arena_bytes = 0;         // a microbatch, from its forward to its backward
  MemoryUse memory;

  PassCost forward() const;
  PassCost backward() const;  // both parts
};

// The ranks of one replica of a plan; ranks are those of replica 0. Replicas cost the same but for where the borders
// between nodes fall among them.
class CostModel {
 public:
  CostModel(const RunConfig& config, const Cluster& cluster, const Plan& plan);

  std::int64_t num_ranks() const { return static_cast<std::int64_t>(ranks_.size()); }
  const RankCost& rank(std::int64_t rank) const { return ranks_.at(static_cast<std::size_t>(rank)); }
  // The rank that needs most memory, and how much.
  const RankCost& fullest() const;
  std::int64_t memory_bytes() const;

  // Of a tensor between two ranks, a microbatch: the rows of the groups that both take.
  std::int64_t message_bytes(std::int64_t from, std::int64_t to, const Boundary& tensor) const;
  // What a rank sends a step, without collectives.
  double sent_bytes(std::int64_t rank, const Program& program) const;

  // Seconds of a pass: each module takes the longer of its arithmetic and its memory traffic.
  double forward_seconds(std::int64_t rank) const;
  double backward_seconds(std::int64_t rank) const;  // where it is split, without its part for the weights
  double weights_seconds(std::int64_t rank) const;
  // Sum of a bucket's gradients over the ranks that hold it, in rings; half of it for the sum or the gathering of
  // shares.
  double sum_seconds(std::int64_t rank, const Bucket& bucket) const;
  // The least a step can take: the busiest rank's passes.
  double busiest_seconds() const;

  // The program of a rank of the replica whose first rank is `first_rank` of the cluster, ready for simulate().
  // Replicas are alike, so the ranks of one replica meet in collectives, which take as long as with all.
  TimedProgram timed(std::int64_t rank, const Program& program, std::int64_t first_rank) const;

 private:
  RankCost cost_of(std::int64_t rank) const;
  double seconds(const PassCost& pass) const;
  const ModuleCost& module_cost(std::int64_t rank, std::int64_t module) const;
  const Bucket& bucket(std::int64_t rank, std::int64_t module) const;
  double small_sum_seconds() const;

  const RunConfig& config_;
  const Cluster& cluster_;
  const Plan& plan_;
  std::int64_t element_;  // bytes of an activation
  std::int64_t groups_per_sequence_ = 0;
  std::vector<RankCost> ranks_;
};

}  // namespace photon
