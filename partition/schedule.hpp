// The schedule of a training step: the program of instructions that each rank of a plan carries out, as a value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "partition/plan.hpp"

namespace photon {

enum class Op : std::uint8_t {
  forward,          // of the hosted modules on a microbatch
  backward_input,   // gradients of the inputs only
  backward_weight,  // gradients of the weights only
  backward,         // both
  recompute,        // activations that the forward did not keep
  send,
  receive,
  all_reduce,  // loss sums over all ranks, and each gradient over the ranks that hold its tensor
  reduce_scatter,
  all_gather,
  clip_norm,  // the global norm of the gradients and the factor that clips it
  step,       // the optimizer's update
  evaluate,   // on the validation files
  save,       // a checkpoint
};

std::string_view name_of(Op op);  // "forward", ...

struct Instruction {
  Op op = Op::forward;
  std::int64_t microbatch = -1;  // of forward, backward, send and their like; -1 where there is none
  std::int64_t peer = -1;        // send, receive: the other rank
  Boundary tensor = {};          // send, receive: what; the rows are those of the groups of both ranks

  bool operator==(const Instruction&) const = default;
  std::string str() const;  // "forward 3", "step", "send dY(1) 3 to rank 0"
};

using Program = std::vector<Instruction>;

// What a step does besides training.
struct StepDuties {
  bool evaluate = false;
  bool save = false;
};

// One program for each rank of the plan, all for one step. Stages follow each other in 1F1B order: stage s of S runs
// S-1-s forwards ahead, then a forward and a backward in turn, so that the encoders of microbatch i+1 run while the
// decoders work on microbatch i. Sends do not wait for their receiver.
std::vector<Program> schedule(const Plan& plan, std::int64_t num_microbatches, const StepDuties& duties);

// What a rank does for one microbatch that is only evaluated: the messages and the forward.
Program forward_program(const Plan& plan, std::int64_t rank, std::int64_t microbatch);

}  // namespace photon
