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
  backward,         // gradients of inputs and weights, with what the plan has it recompute
  backward_input,   // where the backward is split: all of it but the weight gradients of linear layers,
  backward_weight,  // and those
  send,
  receive,
  all_reduce,      // of a part: begins the sum of its gradients over the ranks that hold it; without one: loss sums
  reduce_scatter,  // begins the sum of a part's gradients, of which each of these ranks keeps its share
  all_gather,      // begins to bring the shares of a part's updated weights together
  wait,            // until the sums and gathers that were begun are done
  clip_norm,       // the global norm of the gradients and the factor that clips it
  step,            // the optimizer's update
  evaluate,        // on the validation files
  save,            // a checkpoint
};

std::string_view name_of(Op op);  // "forward", ...

struct Instruction {
  Op op = Op::forward;
  std::int64_t microbatch = -1;  // of forward, backwards, send and their like; -1 where there is none
  std::int64_t peer = -1;        // send, receive: the other rank
  Boundary tensor = {};          // send, receive: what; the rows are those of the groups of both ranks
  // backward, backward_weight, all_reduce, reduce_scatter, all_gather: of which module alone (blueprint/modules.hpp),
  // or `embedding`; -1 for all that the rank holds
  std::int64_t module = -1;
  std::string part{};  // the module's name
  static constexpr std::int64_t embedding = -2;

  bool operator==(const Instruction&) const = default;
  std::string str() const;  // "forward 3", "backward 3 decoder1", "send dY(1) 3 to rank 0"
};

using Program = std::vector<Instruction>;

// What a step does besides training.
struct StepDuties {
  bool evaluate = false;
  bool save = false;
};

// The program of a rank for one step. Stages follow each other in 1F1B order: stage s of S runs S-1-s forwards ahead,
// then a forward and a backward in turn, so that the encoders of microbatch i+1 run while the decoders work on
// microbatch i. Sends do not wait for their receiver. The last backward goes module by module, and the sum of a
// module's gradients begins as soon as they are complete; all are waited for before the norm.
//
// Where the plan splits backwards (PassOptions), stage s runs forward i+S-1-s, the input part of i and the weight part
// of i-s in turn; what weight parts are left come behind the last input part, when the stages before work on what it
// gave: module by module, each in the order of the microbatches, so that sums are the same bits.
Program program_of(const Plan& plan, std::int64_t rank, std::int64_t num_microbatches, const StepDuties& duties);
// One for each rank of the plan.
std::vector<Program> schedule(const Plan& plan, std::int64_t num_microbatches, const StepDuties& duties);

// What a rank does for one microbatch that is only evaluated: the messages and the forward.
Program forward_program(const Plan& plan, std::int64_t rank, std::int64_t microbatch);

}  // namespace photon
