#include "partition/timeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace photon {
namespace {

char letter_of(const Instruction& instruction) {
  switch (instruction.op) {
    case Op::forward:
      return static_cast<char>('0' + instruction.microbatch % 10);
    case Op::backward:
    case Op::backward_input:
      return static_cast<char>('a' + instruction.microbatch % 26);
    case Op::backward_weight:
      return static_cast<char>('A' + instruction.microbatch % 26);
    case Op::step:
      return '#';
    default:
      return '=';
  }
}

// Each column shows what took most of its time.
std::string line_of(const Program& program, const RankTimes& times, double seconds, std::int64_t width) {
  std::string line(static_cast<std::size_t>(width), '.');
  const double column = seconds / static_cast<double>(width);
  std::vector<double> most(line.size(), 0.0);
  std::vector<double> busy(line.size(), 0.0);
  for (const Span& span : times.spans) {
    const auto first = static_cast<std::int64_t>(span.begin / column);
    for (std::int64_t c = std::max<std::int64_t>(first, 0); c < width && static_cast<double>(c) * column < span.end;
         ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double begin = std::max(span.begin, static_cast<double>(c) * column);
      const double share = std::min(span.end, static_cast<double>(c + 1) * column) - begin;
      busy[i] += share;
      if (share <= most[i]) continue;
      most[i] = share;
      line[i] = letter_of(program[static_cast<std::size_t>(span.instruction)]);
    }
  }
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (busy[i] < column / 2) line[i] = '.';
  }
  return line;
}

}  // namespace

std::string timeline_text(const Plan& plan, const Prediction& prediction, std::int64_t width, std::int64_t max_shards) {
  const std::string end = prediction.seconds < 1 ? fmt::format("{:.3g} ms", prediction.seconds * 1e3)
                                                 : fmt::format("{:.3g} s", prediction.seconds);
  std::string text = fmt::format("{:<12}0{:>{}}\n", "", end, width - 1);
  for (std::int64_t rank = 0; rank < plan.ranks_per_replica(); ++rank) {
    const RankRole role = plan.role(rank);
    const std::int64_t hidden = plan.stage_of(rank).shards - max_shards;
    if (role.shard >= max_shards) {
      if (role.shard == max_shards) text += fmt::format("{:<12}({} more like it)\n", "", hidden);
      continue;
    }
    const auto i = static_cast<std::size_t>(rank);
    text += fmt::format("rank {:<6} {}\n", prediction.first_rank + rank,
                        line_of(prediction.programs[i], prediction.simulation.ranks[i], prediction.seconds, width));
  }
  return text + "0-9 forward of a microbatch (last digit), a-z its backward (a is 0)" +
         (plan.passes.split_backward ? ", A-Z the part for its weights" : "") +
         ", = sums over ranks, # optimizer, . waiting\n";
}

}  // namespace photon
