// Sums of gradients over the ranks that hold the same tensors, begun module by module while the backward passes go on;
// and what these ranks share between them.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"
#include "model/parameters.hpp"
#include "partition/schedule.hpp"
#include "partition/sharing.hpp"
#include "tensor/context.hpp"

namespace photon {

class GradientSums {
 public:
  // Collective: makes communicators. `all` outlives this object and has the plan's ranks; `specs` are those of this
  // rank's parameters, which lie where the context computes: on a device, sums begin behind what its stream holds and
  // go on beside it, and wait() lets the stream wait, not the host.
  GradientSums(const ModelConfig& config, const Plan& plan, Communicator& all, const std::vector<ParameterSpec>& specs,
               const Context& ctx = {});

  // Carries out all_reduce, reduce_scatter (of gradients) and all_gather (of weights) of one module: begins them.
  // `values` must stay until wait() returns.
  void start(const Instruction& instruction, const Parameters& values);
  // Lets what has begun go on; without waiting.
  void advance();
  void wait();

  // Collective: the sum of squares of all gradients, each element counted once, the same bits on every rank.
  double sum_of_squares(const Context& ctx, const Parameters& gradients);
  // The elements that this rank updates where moments are shared, counts in norms, and saves: of all holders it alone.
  const std::vector<FlatRange>& owned() const { return owned_; }

 private:
  Communicator& all_;
  Communicator stage_;      // the ranks that hold the same modules
  Communicator embedding_;  // the ranks that hold the embedding, where this one does and several stages do
  std::vector<Bucket> buckets_;
  std::vector<FlatRange> owned_;
  std::vector<Pending> pending_;
  Tensor total_;  // [1] f64 in the ops' memory
};

}  // namespace photon
