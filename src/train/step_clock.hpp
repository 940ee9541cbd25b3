// Where the time of a rank's step goes: every instruction is measured, and the sums of all ranks are brought together
// once a step.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "partition/activity.hpp"
#include "partition/schedule.hpp"
#include "trace/profiler_range.hpp"
#include "trace/trace.hpp"

namespace photon {

// Seconds of a step. The simulator's terms (partition/simulator.hpp): evaluation and saving are in none of them.
struct RankSeconds {
  double compute = 0;        // passes and the optimizer's update
  double wait = 0;           // until messages and other ranks have arrived
  double communication = 0;  // sums over ranks once all are there, and handing over messages
};

// The rank that computes longest: the others wait for it.
std::int64_t slowest_rank(const std::vector<RankSeconds>& ranks);

class StepClock {
 public:
  // Measures from its construction to its end. Measures of one clock lie within each other; only the outermost counts.
  class Measure {
   public:
    Measure(StepClock& clock, std::string name, Activity activity, std::string message, bool receives);
    ~Measure();
    Measure(const Measure&) = delete;
    Measure& operator=(const Measure&) = delete;

   private:
    friend class StepClock;
    StepClock& clock_;
    Measure* outer_;
    std::string name_;
    Activity activity_;
    std::string message_;
    bool receives_;
    ProfilerRange range_;
    std::int64_t begin_ns_;
    std::int64_t arrived_ns_;
  };

  explicit StepClock(std::int64_t rank) : rank_(rank) {}

  // Starts at zero. `keep_spans` is for steps that are traced.
  void begin_step(std::int64_t step, bool keep_spans);
  [[nodiscard]] Measure measure(const Instruction& instruction);
  [[nodiscard]] Measure measure(const std::string& name, Activity activity);
  // In a measure of communication: the other ranks have arrived, what it took until now was waiting.
  void arrived();
  // Where work goes on after its call returned (on a device): called at the end of the measures of traced steps, so
  // that a span holds its work. Other steps are not held up, so there work counts where its end is first waited for.
  void settle_with(std::function<void()> settle) { settle_ = std::move(settle); }

  // This rank's seconds since begin_step.
  const RankSeconds& seconds() const { return seconds_; }
  // Collective: those of every rank, in rank order.
  std::vector<RankSeconds> gather(Communicator& all) const;

  // The spans of the step, with one around them all.
  std::vector<TraceSpan> take_spans();

 private:
  void add(const Measure& measure, std::int64_t end_ns);
  void keep(std::string name, std::string category, std::int64_t begin_ns, std::int64_t end_ns,
            std::string message = {}, bool receives = false);

  std::int64_t rank_;
  std::int64_t step_ = 0;
  std::int64_t begin_ns_ = 0;
  bool keep_spans_ = false;
  Measure* innermost_ = nullptr;
  std::function<void()> settle_;
  RankSeconds seconds_;
  std::vector<TraceSpan> spans_;
};

}  // namespace photon
