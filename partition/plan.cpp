#include "partition/plan.hpp"

#include <algorithm>

#include "support/error.hpp"

namespace photon {

std::int64_t Plan::first_sequence(std::int64_t rank, std::int64_t microbatch) const {
  PHOTON_EXPECT(rank >= 0 && rank < static_cast<std::int64_t>(ranks.size()), "rank {} of a plan for {}", rank,
                ranks.size());
  PHOTON_EXPECT(microbatch >= 0 && microbatch < num_microbatches(), "microbatch {} of {}", microbatch,
                num_microbatches());
  return ranks[static_cast<std::size_t>(rank)].replica * sequences_per_replica() + microbatch * microbatch_size;
}

std::int64_t choose_microbatch_size(std::int64_t sequences, std::int64_t budget_bytes, const ArenaBytes& arena_bytes) {
  for (std::int64_t size = sequences; size > 1; --size) {
    if (sequences % size == 0 && arena_bytes(size) <= budget_bytes) return size;
  }
  return 1;
}

Plan make_plan(const RunConfig& config, std::int64_t num_ranks, std::int64_t budget_bytes,
               const ArenaBytes& arena_bytes) {
  PHOTON_EXPECT(num_ranks >= 1, "a plan for {} ranks", num_ranks);
  const ParallelConfig& parallel = config.parallel;
  if (parallel.stages != 1 || parallel.shards != 1) {
    throw InputError("this layout is not supported yet",
                     fmt::format("parallel.stages is {} and parallel.shards is {}; only data-parallel replicas of the "
                                 "whole model can be trained",
                                 parallel.stages, parallel.shards),
                     "set parallel.stages and parallel.shards to 1");
  }
  if (parallel.data != 0 && parallel.data != num_ranks) {
    throw InputError(
        fmt::format("parallel.data is {}, but the job has {} rank{}", parallel.data, num_ranks,
                    num_ranks == 1 ? "" : "s"),
        "every rank is one replica",
        fmt::format("start {} ranks, or leave parallel.data at 0 to take as many as there are", parallel.data));
  }
  Plan plan;
  plan.replicas = num_ranks;
  plan.batch_size = config.train.batch_size;
  if (plan.batch_size % num_ranks != 0) {
    const std::int64_t below = plan.batch_size / num_ranks * num_ranks;
    throw InputError(fmt::format("train.batch_size {} cannot be split over {} ranks", plan.batch_size, num_ranks),
                     fmt::format("{} sequences would be left over", plan.batch_size - below),
                     fmt::format("set train.batch_size to {}{}, or start another number of ranks",
                                 below > 0 ? fmt::format("{} or ", below) : "", below + num_ranks));
  }
  const std::int64_t sequences = plan.sequences_per_replica();
  plan.microbatch_size = parallel.microbatch_size;
  if (plan.microbatch_size == 0) {
    plan.microbatch_size = choose_microbatch_size(sequences, budget_bytes, arena_bytes);
  } else if (sequences % plan.microbatch_size != 0) {
    throw InputError(
        fmt::format("parallel.microbatch_size {} does not divide the {} sequences a replica takes of a step",
                    plan.microbatch_size, sequences),
        fmt::format("train.batch_size {} over {} ranks", plan.batch_size, num_ranks),
        fmt::format("set it to a divisor of {}, or to 0 to have one chosen", sequences));
  }
  for (std::int64_t rank = 0; rank < num_ranks; ++rank) plan.ranks.push_back({.replica = rank, .stage = 0, .shard = 0});
  return plan;
}

}  // namespace photon
