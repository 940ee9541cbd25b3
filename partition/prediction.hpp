// What a plan would do on a cluster: its programs timed, memory a rank.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.hpp"
#include "partition/cluster.hpp"
#include "partition/cost.hpp"
#include "partition/plan.hpp"
#include "partition/schedule.hpp"
#include "partition/simulator.hpp"

namespace photon {

struct Prediction {
  double seconds = 0;  // of a step
  double tokens_per_second = 0;
  double bubble = 0;              // share of the ranks' time that is not compute
  double utilization = 0;         // training FLOPs of a step over what all ranks could do in its time
  std::int64_t memory_bytes = 0;  // of the rank that holds most
  // The slowest replica; instructions and times of its ranks. Replicas differ in where nodes end among their ranks.
  std::int64_t first_rank = 0;
  std::vector<Program> programs;
  std::vector<RankCost> costs;
  std::vector<double> sent_bytes;  // a step, without collectives
  Simulation simulation;
};

// The plan of one replica by itself.
Plan one_replica(const Plan& plan);

// Times each way that replicas lie on nodes once, however many replicas there are.
Prediction predict(const RunConfig& config, const Cluster& cluster, const Plan& plan);

}  // namespace photon
