#include "partition/schedule.hpp"

#include <utility>

#include "support/error.hpp"

namespace photon {

std::string_view name_of(Op op) {
  switch (op) {
    case Op::forward:
      return "forward";
    case Op::backward:
      return "backward";
    case Op::backward_input:
      return "backward_input";
    case Op::backward_weight:
      return "backward_weight";
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
    case Op::wait:
      return "wait";
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
  if (!part.empty()) text += fmt::format(" {}", part);
  if (peer >= 0) text += fmt::format(" {} rank {}", op == Op::receive ? "from" : "to", peer);
  return text;
}

namespace {

// The forward or backward passes of one rank, with the messages before and after each.
class RankProgram {
 public:
  RankProgram(const Plan& plan, std::int64_t rank) : plan_(plan), rank_(rank), role_(plan.role(rank)) {}

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
  void backward_input(std::int64_t microbatch) {
    exchange(Op::receive, microbatch, true);
    program_.push_back({Op::backward_input, microbatch});
    exchange(Op::send, microbatch, true);
  }
  void backward_weight(std::int64_t microbatch) { program_.push_back({Op::backward_weight, microbatch}); }
  // Those of microbatches `first` to `last`, of which no module is done, and the sums of gradients.
  void last_weights(std::int64_t first, std::int64_t last) {
    if (plan_.holders(role_.stage) == 1) {
      for (std::int64_t i = first; i <= last; ++i) backward_weight(i);
    } else {
      const std::vector<HostedModule>& modules = plan_.stage_of(rank_).modules;
      for (auto module = modules.rbegin(); module != modules.rend(); ++module) {
        for (std::int64_t i = first; i <= last; ++i) {
          program_.push_back({Op::backward_weight, i, -1, {}, module->module, module->name});
        }
        share(sum(), *module);
      }
    }
    finish_sums();
  }
  // The sums of gradients begin on the way, where several ranks hold the same tensors.
  void last_backward(std::int64_t microbatch) {
    if (plan_.holders(role_.stage) == 1) {
      backward(microbatch);
    } else {
      exchange(Op::receive, microbatch, true);
      const std::vector<HostedModule>& modules = plan_.stage_of(rank_).modules;
      for (auto module = modules.rbegin(); module != modules.rend(); ++module) {
        program_.push_back({Op::backward, microbatch, -1, {}, module->module, module->name});
        if (module + 1 == modules.rend()) exchange(Op::send, microbatch, true);
        share(sum(), *module);
      }
    }
    finish_sums();
  }
  void gather() {
    if (!plan_.zero || !sums()) return;
    if (plan_.holders(role_.stage) > 1) {
      for (const HostedModule& module : plan_.stage_of(rank_).modules) share(Op::all_gather, module);
    }
    if (plan_.holds_embedding(role_.stage)) share(Op::all_gather, embedding());
    add(Op::wait);
  }
  void add(Op op) { program_.push_back({op}); }
  Program take() { return std::move(program_); }

 private:
  Op sum() const { return plan_.zero ? Op::reduce_scatter : Op::all_reduce; }
  void finish_sums() {
    if (plan_.holds_embedding(role_.stage)) share(sum(), embedding());
    add(Op::all_reduce);
    if (sums()) add(Op::wait);
  }
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

  bool sums() const { return plan_.holders(role_.stage) > 1 || plan_.holds_embedding(role_.stage); }
  static HostedModule embedding() { return {Instruction::embedding, "embedding"}; }
  void share(Op op, const HostedModule& module) { program_.push_back({op, -1, -1, {}, module.module, module.name}); }

  const Plan& plan_;
  std::int64_t rank_;
  RankRole role_;
  Program program_;
};

}  // namespace

Program program_of(const Plan& plan, std::int64_t rank, std::int64_t num_microbatches, const StepDuties& duties) {
  PHOTON_EXPECT(num_microbatches >= 1, "a step of {} microbatches", num_microbatches);
  RankProgram program(plan, rank);
  const std::int64_t stage = plan.role(rank).stage;
  const std::int64_t ahead = plan.forwards_ahead(stage, num_microbatches);
  const std::int64_t behind = plan.weights_behind(stage, num_microbatches);
  const std::int64_t last = num_microbatches - 1;
  for (std::int64_t i = 0; i < ahead; ++i) program.forward(i);
  for (std::int64_t i = 0; i <= last; ++i) {
    if (i + ahead <= last) program.forward(i + ahead);
    if (plan.passes.split_backward) {
      program.backward_input(i);
      if (i < last && i >= behind) program.backward_weight(i - behind);
    } else if (i < last) {
      program.backward(i);
    }
  }
  if (plan.passes.split_backward) {
    program.last_weights(last - behind, last);
  } else {
    program.last_backward(last);
  }
  program.add(Op::clip_norm);
  program.add(Op::step);
  program.gather();
  if (duties.evaluate) program.add(Op::evaluate);
  if (duties.save) program.add(Op::save);
  return program.take();
}

std::vector<Program> schedule(const Plan& plan, std::int64_t num_microbatches, const StepDuties& duties) {
  std::vector<Program> programs;
  for (std::size_t r = 0; r < plan.ranks.size(); ++r) {
    programs.push_back(program_of(plan, static_cast<std::int64_t>(r), num_microbatches, duties));
  }
  return programs;
}

Program forward_program(const Plan& plan, std::int64_t rank, std::int64_t microbatch) {
  RankProgram program(plan, rank);
  program.forward(microbatch);
  return program.take();
}

}  // namespace photon
