#include "partition/prediction.hpp"

#include <set>
#include <utility>

#include "blueprint/flops.hpp"

namespace photon {

Plan one_replica(const Plan& plan) {
  Plan one = plan;
  one.replicas = 1;
  one.batch_size = plan.sequences_per_replica();
  one.ranks.resize(static_cast<std::size_t>(plan.ranks_per_replica()));
  return one;
}

Prediction predict(const RunConfig& config, const Cluster& cluster, const Plan& plan) {
  const CostModel cost(config, cluster, plan);
  Prediction result;
  result.programs = schedule(one_replica(plan), plan.num_microbatches(), {});
  std::set<std::int64_t> seen;  // places in a node that replicas begin at
  for (std::int64_t replica = 0; replica < plan.replicas; ++replica) {
    const std::int64_t first = replica * plan.ranks_per_replica();
    if (!seen.insert(first % cluster.ranks_per_node).second) break;  // from here on they repeat
    std::vector<TimedProgram> timed;
    for (std::int64_t rank = 0; rank < cost.num_ranks(); ++rank) {
      timed.push_back(cost.timed(rank, result.programs[static_cast<std::size_t>(rank)], first));
    }
    Simulation simulation = simulate(timed);
    if (replica > 0 && simulation.seconds <= result.simulation.seconds) continue;
    result.simulation = std::move(simulation);
    result.first_rank = first;
  }
  result.seconds = result.simulation.seconds;
  result.bubble = result.simulation.bubble;
  const auto sequences = static_cast<double>(plan.batch_size);
  const auto ranks = static_cast<double>(plan.replicas * plan.ranks_per_replica());
  result.tokens_per_second = sequences * static_cast<double>(config.train.sequence_length) / result.seconds;
  result.utilization =
      sequences * training_flops(config.model, config.train.sequence_length) / (result.seconds * ranks * cluster.flops);
  result.memory_bytes = cost.memory_bytes();
  for (std::int64_t rank = 0; rank < cost.num_ranks(); ++rank) {
    result.costs.push_back(cost.rank(rank));
    result.sent_bytes.push_back(cost.sent_bytes(rank, result.programs[static_cast<std::size_t>(rank)]));
  }
  return result;
}

}  // namespace photon
