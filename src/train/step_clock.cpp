#include "train/step_clock.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "comm/clock_offsets.hpp"

namespace photon {
std::int64_t slowest_rank(const std::vector<RankSeconds>& ranks) {
  const auto slowest = std::max_element(
      ranks.begin(), ranks.end(), [](const RankSeconds& a, const RankSeconds& b) { return a.compute < b.compute; });
  return slowest - ranks.begin();
}

StepClock::Measure::Measure(StepClock& clock, std::string name, Activity activity, std::string message, bool receives)
    : clock_(clock),
      outer_(std::exchange(clock.innermost_, this)),
      name_(std::move(name)),
      activity_(activity),
      message_(std::move(message)),
      receives_(receives),
      range_(name_),
      begin_ns_(monotonic_ns()),
      arrived_ns_(begin_ns_) {}

StepClock::Measure::~Measure() {
  clock_.innermost_ = outer_;
  try {
    clock_.add(*this, monotonic_ns());
  } catch (const std::exception&) {
    // No memory for a span, or the device failed: whoever uses either next says so.
  }
}

void StepClock::begin_step(std::int64_t step, bool keep_spans) {
  step_ = step;
  keep_spans_ = keep_spans;
  seconds_ = {};
  spans_.clear();
  begin_ns_ = monotonic_ns();
}

StepClock::Measure StepClock::measure(const Instruction& instruction) {
  std::string message;
  const bool receives = instruction.op == Op::receive;
  if (keep_spans_ && instruction.peer >= 0) {
    const std::int64_t from = receives ? instruction.peer : rank_;
    const std::int64_t to = receives ? rank_ : instruction.peer;
    message = fmt::format("{}: {} > {} {} {}", step_, from, to, instruction.tensor.str(), instruction.microbatch);
  }
  return Measure(*this, instruction.str(), activity_of(instruction.op), std::move(message), receives);
}

StepClock::Measure StepClock::measure(const std::string& name, Activity activity) {
  return Measure(*this, name, activity, {}, false);
}

void StepClock::arrived() {
  if (innermost_ != nullptr) innermost_->arrived_ns_ = monotonic_ns();
}

void StepClock::keep(std::string name, std::string category, std::int64_t begin_ns, std::int64_t end_ns,
                     std::string message, bool receives) {
  spans_.push_back({.name = std::move(name),
                    .category = std::move(category),
                    .begin_ns = begin_ns,
                    .end_ns = end_ns,
                    .message = std::move(message),
                    .receives = receives});
}

void StepClock::add(const Measure& measure, std::int64_t end_ns) {
  if (keep_spans_) {
    if (settle_) {
      settle_();
      end_ns = monotonic_ns();
    }
    keep(measure.name_, std::string(name_of(measure.activity_)), measure.begin_ns_, end_ns, measure.message_,
         measure.receives_);
    if (measure.arrived_ns_ > measure.begin_ns_) keep("wait for ranks", "wait", measure.begin_ns_, measure.arrived_ns_);
  }
  if (measure.outer_ != nullptr) return;
  const double seconds = static_cast<double>(end_ns - measure.begin_ns_) * 1e-9;
  const double waited = static_cast<double>(measure.arrived_ns_ - measure.begin_ns_) * 1e-9;
  switch (measure.activity_) {
    case Activity::compute:
      seconds_.compute += seconds;
      break;
    case Activity::wait:
      seconds_.wait += seconds;
      break;
    case Activity::communication:
      seconds_.wait += waited;
      seconds_.communication += seconds - waited;
      break;
    case Activity::other:
      break;
  }
}

std::vector<RankSeconds> StepClock::gather(Communicator& all) const {
  static_assert(sizeof(RankSeconds) == 3 * sizeof(double));
  std::vector<RankSeconds> ranks(static_cast<std::size_t>(all.size()));
  all.all_gather(host_view(&seconds_.compute, {3}), host_view(&ranks[0].compute, {3 * std::int64_t{all.size()}}));
  return ranks;
}

std::vector<TraceSpan> StepClock::take_spans() {
  if (!keep_spans_) return {};
  keep(fmt::format("training step {}", step_), "step", begin_ns_, monotonic_ns());
  // An enclosing span stands before those within it.
  std::stable_sort(spans_.begin(), spans_.end(), [](const TraceSpan& a, const TraceSpan& b) {
    return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
  });
  return std::exchange(spans_, {});
}

}  // namespace photon
