// Where the time of a rank's step goes: every instruction is measured, and the sums of all ranks are brought together
// once a step.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "partition/activity.hpp"
#include "partition/schedule.hpp"
#include "tensor/graph.hpp"
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
    const Event* begin_event_ = nullptr;  // on a device, of an outermost measure
    const Event* arrived_event_ = nullptr;
  };

  explicit StepClock(std::int64_t rank) : rank_(rank) {}

  // Starts at zero. `keep_spans` is for steps that are traced.
  void begin_step(std::int64_t step, bool keep_spans);
  [[nodiscard]] Measure measure(const Instruction& instruction);
  [[nodiscard]] Measure measure(const std::string& name, Activity activity);
  // In a measure of communication: the other ranks have arrived, what it took until now was waiting.
  void arrived();
  // For work that is queued on a device: from now on seconds are those of the stream, between its points at a measure's
  // begin and end. Nothing waits for the device until they are asked for, except that a traced step waits at the end of
  // every measure, so that its span holds its work.
  void follow(Stream stream);

  // This rank's seconds since begin_step. Waits for the stream, where one is followed.
  const RankSeconds& seconds();
  // Collective: those of every rank, in rank order.
  std::vector<RankSeconds> gather(Communicator& all);

  // The spans of the step, with one around them all.
  std::vector<TraceSpan> take_spans();

 private:
  // An outermost measure on a device.
  struct Interval {
    Activity activity;
    const Event* begin;
    const Event* arrived;  // null: never said
    const Event* end;
  };

  void finish(const Measure& measure);
  void add(Activity activity, double seconds, double waited);
  const Event* mark();  // the stream's point now
  void keep(std::string name, std::string category, std::int64_t begin_ns, std::int64_t end_ns,
            std::string message = {}, bool receives = false);

  std::int64_t rank_;
  std::int64_t step_ = 0;
  std::int64_t begin_ns_ = 0;
  bool keep_spans_ = false;
  Measure* innermost_ = nullptr;
  std::optional<Stream> stream_;
  std::vector<std::unique_ptr<Event>> events_;  // made once, used again in every step
  std::size_t num_events_ = 0;                  // of this step
  std::vector<Interval> intervals_;
  RankSeconds seconds_;
  std::vector<TraceSpan> spans_;
};

}  // namespace photon
