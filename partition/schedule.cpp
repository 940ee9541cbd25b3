#include "partition/schedule.hpp"

#include "support/error.hpp"

namespace photon {

std::string_view name_of(Op op) {
  switch (op) {
    case Op::forward:
      return "forward";
    case Op::backward_input:
      return "backward_input";
    case Op::backward_weight:
      return "backward_weight";
    case Op::backward:
      return "backward";
    case Op::recompute:
      return "recompute";
    case Op::send:
      return "send";
    case Op::receive:
      return "receive";
    case Op::all_reduce:
      return "all_reduce";
    case Op::reduce_scatter:
      return "reduce_scatter";
    case Op::all_gather:
      return "all_gather";
    case Op::clip_norm:
      return "clip_norm";
    case Op::step:
      return "step";
    case Op::evaluate:
      return "evaluate";
    case Op::save:
      return "save";
  }
  return "?";
}

std::string Instruction::str() const {
  return microbatch < 0 ? std::string(name_of(op)) : fmt::format("{} {}", name_of(op), microbatch);
}

std::vector<Program> schedule(const Plan& plan, std::int64_t num_microbatches, const StepDuties& duties) {
  PHOTON_EXPECT(num_microbatches >= 1, "a step of {} microbatches", num_microbatches);
  PHOTON_EXPECT(plan.stages == 1 && plan.shards == 1, "a schedule for {} stages and {} shards", plan.stages,
                plan.shards);
  Program program;
  for (std::int64_t i = 0; i < num_microbatches; ++i) {
    program.push_back({Op::forward, i});
    program.push_back({Op::backward, i});
  }
  program.push_back({Op::all_reduce});
  program.push_back({Op::clip_norm});
  program.push_back({Op::step});
  if (duties.evaluate) program.push_back({Op::evaluate});
  if (duties.save) program.push_back({Op::save});
  return std::vector<Program>(plan.ranks.size(), program);
}

}  // namespace photon
