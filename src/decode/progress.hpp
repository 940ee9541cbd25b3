// How far a decode job has come, on stderr: one line that is rewritten on a terminal, a log line every few seconds
// elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "decode/engine.hpp"

namespace photon {

class DecodeProgress {
 public:
  // Rows of the whole job; -1: not known.
  explicit DecodeProgress(std::int64_t total);
  ~DecodeProgress();
  DecodeProgress(const DecodeProgress&) = delete;
  DecodeProgress& operator=(const DecodeProgress&) = delete;

  void update(const EngineStatistics& statistics, std::int64_t num_resumed);
  void clear();  // takes the line off the terminal

 private:
  using Clock = std::chrono::steady_clock;
  std::int64_t total_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = Clock::now();
};

// "120/1000 rows, 15360 tokens, 512 tok/s, 64 in flight, 2 errors, 0:31 left".
std::string progress_text(const EngineStatistics& statistics, std::int64_t num_resumed, std::int64_t total,
                          double seconds);

}  // namespace photon
