// How far a decode job has come: on stderr, one line that is rewritten on a terminal and a log line every few seconds
// elsewhere; and for programs, JSON lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "decode/engine.hpp"
#include "storage/line_writer.hpp"

namespace photon {

// Where a job stands. Of several ranks: the sums.
struct ProgressFigures {
  std::int64_t rows = 0;         // finished with a result by this start of the job
  std::int64_t errors = 0;       // finished with an error by it
  std::int64_t resumed = 0;      // finished before it
  std::int64_t tokens = 0;       // new ones, of rows in flight too
  std::int64_t active = 0;       // samples in flight
  std::int64_t cache_bytes = 0;  // reserved for caches

  std::int64_t done() const { return rows + errors + resumed; }
};
ProgressFigures progress_figures(const EngineStatistics& statistics, std::int64_t num_resumed);

// "120/1000 rows, 15360 tokens, 512 tok/s, 64 in flight, 0.50 GiB of caches, 2 errors, 0:31 left". `total`: rows of the
// whole job, -1: not known. `seconds`: since this start.
std::string progress_text(const ProgressFigures& figures, std::int64_t total, double seconds);
// The same as one line of JSON; what is not known is null.
std::string progress_json(const ProgressFigures& figures, std::int64_t total, double seconds);
// Seconds left at the pace of this start; nothing while that is not known.
std::optional<double> seconds_left(const ProgressFigures& figures, std::int64_t total, double seconds);

struct ProgressOptions {
  std::filesystem::path json;  // where JSON lines go, appended; "-": stderr, in place of the lines for people
  double every_seconds = 10;
};

class DecodeProgress {
 public:
  // `total`: rows of the whole job; -1: not known. Errors: InputError when the file cannot be written.
  DecodeProgress(const ProgressOptions& options, std::int64_t total);
  ~DecodeProgress();
  DecodeProgress(const DecodeProgress&) = delete;
  DecodeProgress& operator=(const DecodeProgress&) = delete;

  void update(const ProgressFigures& figures);  // as often as one likes
  // Takes the line off the terminal, and writes the last JSON line.
  void finish(const ProgressFigures& figures);

 private:
  using Clock = std::chrono::steady_clock;
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void write_json(const ProgressFigures& figures);
  void clear();

  ProgressOptions options_;
  std::int64_t total_;
  bool terminal_;
  bool shown_ = false;
  LineWriter json_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = Clock::now();
  Clock::time_point last_json_ = Clock::now();
};

}  // namespace photon
