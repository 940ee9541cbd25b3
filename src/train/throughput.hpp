// How fast this machine trains a model: steps on random tokens, without data files or a run folder.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.hpp"

namespace photon {

struct Throughput {
  std::vector<double> step_seconds;  // of each measured step, in order
  double median_seconds = 0;
  double tokens_per_second = 0;  // by the median
  double model_gflops = 0;       // model FLOPs a second, in units of 1e9 (blueprint/flops.hpp)
  double matrix_gflops = 0;      // what one large matrix product reaches here, measured in the same process
  std::int64_t num_threads = 0;
  std::int64_t arena_bytes = 0;
};

// `warmup` and then `steps` whole steps (forward, backward, norm, AdamW) of train.batch_size sequences in microbatches
// of parallel.microbatch_size (0: one microbatch). The data section is not used.
Throughput measure_training(const RunConfig& config, std::int64_t warmup, std::int64_t steps);

}  // namespace photon
