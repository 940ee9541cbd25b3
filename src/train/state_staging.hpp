// Weights and moments in host memory, on their way to a checkpoint or from one. From a GPU they are copied beside the
// training that goes on, to pinned memory; on the host the copy is made at once, and what is written beside the
// training is the copy.
#pragma once

#include <optional>

#include "model/parameters.hpp"
#include "tensor/context.hpp"
#include "tensor/graph.hpp"
#include "train/adamw_optimizer.hpp"

namespace photon {

class StateStaging {
 public:
  // As much as these buffers hold, which lie in one memory.
  StateStaging(const Parameters& weights, AdamWOptimizer& optimizer);
  ~StateStaging();
  StateStaging(const StateStaging&) = delete;
  StateStaging& operator=(const StateStaging&) = delete;

  // Host memory of the three buffers.
  Parameters& weights() { return weights_; }
  Parameters& mean() { return mean_; }
  Parameters& variance() { return variance_; }

  // Queues copies of the state that the work queued on the context's stream so far leaves.
  void begin_download(const Context& ctx, const Parameters& weights, AdamWOptimizer& optimizer);
  // What is queued on the context's stream from here on, e.g. the next update, runs after the copies.
  void hold(const Context& ctx) const;
  // Waits until the copies are in host memory; any thread may.
  void wait() const;

  // Host memory to the GPU, done when it returns; the working copy follows.
  void upload(Parameters& weights, AdamWOptimizer& optimizer) const;

 private:
  Parameters weights_;
  Parameters mean_;
  Parameters variance_;
  struct Copies {  // of a GPU
    Stream stream;
    Event begun;
    Event copied;
    bool used = false;
  };
  std::optional<Copies> copies_;
};

}  // namespace photon
