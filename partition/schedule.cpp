#include "partition/schedule.hpp"

#include <utility>

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
  std::string text(name_of(op));
  if (tensor.kind != Boundary::Kind::none) text += fmt::format(" {}", tensor.str());
  if (microbatch >= 0) text += fmt::format(" {}", microbatch);
  if (peer >= 0) text += fmt::format(" {} rank {}", op == Op::receive ? "from" : "to", peer);
  return text;
}

namespace {

// The forward or backward passes of one rank, with the messages before and after each.
class RankProgram {
 public:
  RankProgram(const Plan& plan, std::int64_t rank) : plan_(plan), role_(plan.role(rank)) {}

  void forward(std::int64_t microbatch) {
    exchange(Op::receive, microbatch, false);
    program_.push_back({Op::forward, microbatch});
    exchange(Op::send, microbatch, false);
  }
  void backward(std::int64_t microbatch) {
    exchange(Op::receive, microbatch, true);
    program_.push_back({Op::backward, microbatch});
    exchange(Op::send, microbatch, true);
  }
  void add(Op op) { program_.push_back({op}); }
  Program take() { return std::move(program_); }

 private:
  // Gradients go against the crossings: who receives a tensor sends its gradient.
  void exchange(Op op, std::int64_t microbatch, bool gradient) {
    for (const Crossing& crossing : plan_.crossings) {
      if (gradient && !crossing.returns) continue;
      const std::int64_t from = gradient ? crossing.to : crossing.from;
      const std::int64_t to = gradient ? crossing.from : crossing.to;
      if ((op == Op::send ? from : to) != role_.stage) continue;
      const std::int64_t other = op == Op::send ? to : from;
      Boundary tensor = crossing.tensor;
      tensor.gradient = gradient;
      for (std::int64_t k = 0; k < plan_.layout[static_cast<std::size_t>(other)].shards; ++k) {
        program_.push_back({op, microbatch, plan_.rank_of({role_.replica, other, k}), tensor});
      }
    }
  }

  const Plan& plan_;
  RankRole role_;
  Program program_;
};

}  // namespace

std::vector<Program> schedule(const Plan& plan, std::int64_t num_microbatches, const StepDuties& duties) {
  PHOTON_EXPECT(num_microbatches >= 1, "a step of {} microbatches", num_microbatches);
  std::vector<Program> programs;
  for (std::size_t r = 0; r < plan.ranks.size(); ++r) {
    const auto rank = static_cast<std::int64_t>(r);
    RankProgram program(plan, rank);
    const std::int64_t ahead = plan.max_in_flight(plan.role(rank).stage, num_microbatches) - 1;
    for (std::int64_t i = 0; i < ahead; ++i) program.forward(i);
    for (std::int64_t i = 0; i < num_microbatches; ++i) {
      if (i + ahead < num_microbatches) program.forward(i + ahead);
      program.backward(i);
    }
    program.add(Op::all_reduce);
    program.add(Op::clip_norm);
    program.add(Op::step);
    if (duties.evaluate) program.add(Op::evaluate);
    if (duties.save) program.add(Op::save);
    programs.push_back(program.take());
  }
  return programs;
}

Program forward_program(const Plan& plan, std::int64_t rank, std::int64_t microbatch) {
  RankProgram program(plan, rank);
  program.forward(microbatch);
  return program.take();
}

}  // namespace photon
