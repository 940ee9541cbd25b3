#include "report/predicted_trace.hpp"

#include <cmath>

#include "partition/activity.hpp"

namespace photon {

Trace predicted_trace(const ModelConfig& config, const Plan& plan, const Prediction& prediction) {
  const auto nanoseconds = [](double seconds) { return static_cast<std::int64_t>(std::llround(seconds * 1e9)); };
  Trace trace;
  trace.predicted = true;
  for (std::int64_t rank = 0; rank < plan.ranks_per_replica(); ++rank) {
    const auto i = static_cast<std::size_t>(rank);
    TraceTrack track;
    track.rank = prediction.first_rank + rank;
    track.label = hosted_text(config, plan, track.rank);
    for (const Span& span : prediction.simulation.ranks[i].spans) {
      const Instruction& instruction = prediction.programs[i][static_cast<std::size_t>(span.instruction)];
      track.spans.push_back({.name = instruction.str(),
                             .category = std::string(name_of(activity_of(instruction.op))),
                             .begin_ns = nanoseconds(span.begin),
                             .end_ns = nanoseconds(span.end)});
    }
    trace.tracks.push_back(std::move(track));
  }
  return trace;
}

}  // namespace photon
