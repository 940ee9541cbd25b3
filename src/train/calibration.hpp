// What a cluster file says of this machine, measured: so that predicted times are those of a run here.
#pragma once

#include <cstdint>
#include <string>

#include "comm/world.hpp"
#include "config/cluster_config.hpp"
#include "config/run_config.hpp"

namespace photon {

// Collective; all ranks measure at once, so that ranks that share cores or a network take from each other what they
// take in a run; on GPUs (train.device) each its own. The matrix rate is that of one large product in train.precision,
// the efficiency what training `config.model` in microbatches of parallel.microbatch_size (0: one sequence) makes of
// it, over `steps` steps; memory what is free. Links are those of messages from each rank to the next, latency
// that of one which is waited for: with several hosts the one link stands for both kinds. Errors: InputError where
// hosts have unequally many ranks, or ranks no GPU, and for fp8.
ClusterConfig measure_cluster(World& world, const RunConfig& config, std::int64_t steps);

// As load_cluster_config() reads it.
std::string to_yaml(const ClusterConfig& cluster);

}  // namespace photon
