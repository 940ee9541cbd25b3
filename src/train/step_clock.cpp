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
      arrived_ns_(begin_ns_) {
  if (outer_ == nullptr) begin_event_ = clock.mark();
}

StepClock::Measure::~Measure() {
  clock_.innermost_ = outer_;
  try {
    clock_.finish(*this);
  } catch (const std::exception&) {
    // No memory for a span, or the device failed: whoever uses either next says so.
  }
}

void StepClock::begin_step(std::int64_t step, bool keep_spans) {
  step_ = step;
  keep_spans_ = keep_spans;
  seconds_ = {};
  spans_.clear();
  intervals_.clear();
  num_events_ = 0;
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
  if (innermost_ == nullptr) return;
  innermost_->arrived_ns_ = monotonic_ns();
  if (innermost_->begin_event_ != nullptr) innermost_->arrived_event_ = mark();
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

void StepClock::follow(Stream stream) {
  stream_ = stream;
}

const Event* StepClock::mark() {
  if (!stream_) return nullptr;
  if (num_events_ == events_.size()) events_.push_back(std::make_unique<Event>());
  Event& event = *events_[num_events_++];
  event.record(*stream_);
  return &event;
}

void StepClock::finish(const Measure& measure) {
  if (measure.begin_event_ != nullptr) {
    intervals_.push_back({measure.activity_, measure.begin_event_, measure.arrived_event_, mark()});
  }
  if (keep_spans_ && stream_) device::synchronize(*stream_);
  const std::int64_t end_ns = monotonic_ns();
  if (keep_spans_) {
    keep(measure.name_, std::string(name_of(measure.activity_)), measure.begin_ns_, end_ns, measure.message_,
         measure.receives_);
    if (measure.arrived_ns_ > measure.begin_ns_) keep("wait for ranks", "wait", measure.begin_ns_, measure.arrived_ns_);
  }
  if (measure.outer_ != nullptr || stream_) return;
  add(measure.activity_, static_cast<double>(end_ns - measure.begin_ns_) * 1e-9,
      static_cast<double>(measure.arrived_ns_ - measure.begin_ns_) * 1e-9);
}

void StepClock::add(Activity activity, double seconds, double waited) {
  switch (activity) {
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

const RankSeconds& StepClock::seconds() {
  if (!intervals_.empty()) device::synchronize(*stream_);  // gives up on lost ranks, which waits for events do not
  for (const Interval& interval : intervals_) {
    add(interval.activity, interval.end->seconds_since(*interval.begin),
        interval.arrived == nullptr ? 0 : interval.arrived->seconds_since(*interval.begin));
  }
  intervals_.clear();
  return seconds_;
}

std::vector<RankSeconds> StepClock::gather(Communicator& all) {
  static_assert(sizeof(RankSeconds) == 3 * sizeof(double));
  seconds();
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
