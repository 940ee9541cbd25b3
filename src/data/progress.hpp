// How far a long job over bytes has come, on stderr: one line that is rewritten on a terminal, a log line every few
// seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace photon {

class Progress {
 public:
  // `what` is the job, `total` the bytes it has to go through.
  Progress(std::string what, std::uint64_t total);
  ~Progress();  // clears the terminal's line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::uint64_t done);
  // Takes the line off the terminal, e.g. before a log message.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  std::uint64_t total_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
};

// "37% (1.2 of 3.3 GB), 45.0 MB/s, 0:47 left": the text after `what`. The denominator is never exceeded.
std::string progress_text(std::uint64_t done, std::uint64_t total, double seconds);

// 999 B, 1.5 kB, 23.4 MB, ... (powers of 1000).
std::string bytes_text(double bytes);

}  // namespace photon
