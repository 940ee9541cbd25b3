#include "train/message_routes.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "partition/schedule.hpp"

namespace photon {
namespace {

using Ends = std::pair<std::int64_t, std::int64_t>;  // from, to

// Of each route the messages of the programs' sends, or receives, in order.
std::map<Ends, std::vector<Instruction>> messages(const std::vector<Program>& programs, Op op) {
  std::map<Ends, std::vector<Instruction>> found;
  for (std::size_t rank = 0; rank < programs.size(); ++rank) {
    for (const Instruction& instruction : programs[rank]) {
      if (instruction.op != op) continue;
      const auto me = static_cast<std::int64_t>(rank);
      found[op == Op::send ? Ends(me, instruction.peer) : Ends(instruction.peer, me)].push_back(instruction);
    }
  }
  return found;
}

void expect_same_order(const std::vector<Program>& programs) {
  const auto sends = messages(programs, Op::send);
  const auto receives = messages(programs, Op::receive);
  PHOTON_EXPECT(sends.size() == receives.size(), "{} routes are sent on and {} received from", sends.size(),
                receives.size());
  for (const auto& [ends, sent] : sends) {
    const auto found = receives.find(ends);
    const bool same =
        found != receives.end() && std::equal(sent.begin(), sent.end(), found->second.begin(), found->second.end(),
                                              [](const Instruction& a, const Instruction& b) {
                                                return a.microbatch == b.microbatch && a.tensor == b.tensor;
                                              });
    PHOTON_EXPECT(same, "ranks {} and {} exchange messages in different orders", ends.first, ends.second);
  }
}

}  // namespace

std::vector<Route> message_routes(const Plan& plan) {
  const std::vector<Program> step = schedule(plan, plan.num_microbatches(), {});
  std::vector<Program> evaluation;
  for (std::size_t rank = 0; rank < step.size(); ++rank) {
    evaluation.push_back(forward_program(plan, static_cast<std::int64_t>(rank), 0));
  }
  expect_same_order(step);
  expect_same_order(evaluation);
  std::vector<Route> routes;
  for (const auto& [ends, sent] : messages(step, Op::send)) {
    routes.push_back({static_cast<int>(ends.first), static_cast<int>(ends.second)});
  }
  return routes;
}

}  // namespace photon
