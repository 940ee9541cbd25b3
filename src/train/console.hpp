// What a run shows while it trains: one line that renews itself on a terminal, plain lines elsewhere. On stderr.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "train/metrics.hpp"

namespace photon {

// "1h02m", "3m05s", "12s"
std::string duration_text(double seconds);

class Console {
 public:
  // `log_every`: steps between plain lines; 0 = a line every 10 s. The first and the last step always have one.
  // `silent` for ranks other than the first.
  Console(std::int64_t num_steps, std::int64_t log_every, bool silent);
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  void show(const StepRecord& record);
  // A line of its own for an evaluation.
  void show_validation(std::int64_t step, const ValidationResult& validation);
  // Takes the renewing line away, so that something else can be printed.
  void clear();

  // The text of a step's line, without the time it was shown.
  std::string line(const StepRecord& record) const;

 private:
  using Clock = std::chrono::steady_clock;

  std::int64_t num_steps_;
  std::int64_t log_every_;
  bool silent_;
  bool terminal_;
  bool open_ = false;  // a renewing line stands on the terminal
  bool first_ = true;  // no step was shown yet
  Clock::time_point shown_;
  double seconds_per_step_ = 0;  // running mean, for the time left
};

}  // namespace photon
