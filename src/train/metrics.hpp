// metrics.jsonl: one JSON object a step, every number at full precision (docs/training.md lists the keys).
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/step_clock.hpp"

namespace photon {

// What an evaluation found: means over the counted tokens and unpadded units of the validation files.
struct ValidationResult {
  double loss = 0;  // ce + alpha * rec
  double ce = 0;    // nats a token
  double rec = 0;
  double bits_per_byte = 0;
  std::int64_t num_tokens = 0;
  double seconds = 0;
};

struct StepRecord {
  std::int64_t step = 0;  // counted from 1
  double loss = 0;        // ce + alpha * rec
  double ce = 0;          // nats a token
  double rec = 0;
  std::vector<double> rec_levels;  // the mean distance at level l = 1 .. L-1; their sum is rec
  double lr = 0;
  double grad_norm = 0;     // before clipping
  std::int64_t tokens = 0;  // of all steps so far, over all ranks
  double tokens_per_second = 0;
  double seconds = 0;            // this step, evaluation and saving excluded
  std::optional<double> mfu;     // model FLOPs a second over the peak of all ranks' GPUs, where it is known
  bool skipped = false;          // non-finite, or a spike: no update was made
  std::int64_t num_skipped = 0;  // such steps so far
  std::optional<ValidationResult> validation;
  std::vector<RankSeconds> ranks;  // where each rank's time went; empty for one rank
};

// One line of the file, without its end. Numbers that JSON cannot write (NaN, infinity) become null.
std::string to_json_line(const StepRecord& record);

class MetricsFile {
 public:
  // Opens the file for appending after cutting it back to the steps up to `last_step` (a torn last line goes too).
  // Errors: Error when it cannot be written.
  MetricsFile(const std::filesystem::path& file, std::int64_t last_step);

  // Steps that were there and came after `last_step`.
  std::int64_t num_discarded() const { return num_discarded_; }

  void append(const StepRecord& record);  // the line is with the operating system when this returns
  void sync();                            // and on the disk

  // Whether the last line that was kept belongs to `step` and holds no validation yet.
  bool lacks_validation(std::int64_t step) const { return last_step_ == step && step > 0 && !last_has_validation_; }
  // Adds an evaluation to the last line.
  void complete_last(const ValidationResult& validation);

 private:
  void open();

  std::filesystem::path file_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream_;
  std::int64_t last_step_ = 0;
  std::int64_t num_discarded_ = 0;
  bool last_has_validation_ = false;
};

}  // namespace photon
