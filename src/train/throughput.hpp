// How fast this machine trains a model, on its CPU or a GPU: steps on random tokens, without data files or a run
// folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/run_config.hpp"
#include "tensor/context.hpp"

namespace photon {

struct Throughput {
  std::vector<double> step_seconds;  // of each measured step, in order
  double median_seconds = 0;
  double median_pass_seconds = 0;  // of the forward and backward passes of a step
  double tokens_per_second = 0;    // by the median
  double model_gflops = 0;         // model FLOPs a second, in units of 1e9 (blueprint/flops.hpp)
  double matrix_gflops = 0;        // what one large matrix product reaches here, measured in the same process
  std::int64_t num_threads = 0;
  std::int64_t arena_bytes = 0;
  std::int64_t microbatch = 0;
  double last_loss = 0;  // of the last step, nats a token
  // On a GPU:
  std::string device;           // its name
  std::int64_t peak_bytes = 0;  // device memory in use when the steps were done, all of it
  struct Phases {
    double forward_backward = 0;
    double norm = 0;  // of the gradient
    double optimizer = 0;
  } phases;  // seconds of the last step
};

// What one large matrix product reaches, the best of a few, in units of 1e9 FLOPs a second.
double measure_matrix_gflops(const Context& ctx, DType dtype);

// `warmup` and then `steps` whole steps (forward, backward, norm, AdamW) of train.batch_size sequences in microbatches
// of parallel.microbatch_size (0: chosen by the memory on a GPU, else one microbatch), on train.device in
// train.precision. The data section is not used. Errors: InputError where the memory does not suffice.
Throughput measure_training(const RunConfig& config, std::int64_t warmup, std::int64_t steps);

}  // namespace photon
