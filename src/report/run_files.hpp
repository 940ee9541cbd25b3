// What the files of a run folder say, read without changing them and without a process of the run: a run may go on
// meanwhile, and files may end in a torn line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/run_config.hpp"
#include "trace/trace.hpp"

namespace photon {

// A curve: a value at each of some steps; NaN where the value was not finite.
struct Series {
  std::vector<std::int64_t> steps;
  std::vector<double> values;

  void add(std::int64_t step, double value) {
    steps.push_back(step);
    values.push_back(value);
  }
};

// The same course with about `most` points: of every bucket of neighbours the least and the greatest value stay, and
// all values that are not finite.
Series thinned(const Series& series, std::size_t most);

// Sums over the steps whose metrics have times of ranks; only those since the layout was last changed.
struct RankTotals {
  std::int64_t num_steps = 0;
  std::vector<double> compute;  // seconds, a number a rank
  std::vector<double> wait;
  std::vector<double> communication;
  std::vector<std::int64_t> slowest;  // steps in which the rank computed longest
  double seconds = 0;                 // of those steps
};

struct CheckpointFolder {
  std::string name;  // "step-300"
  std::int64_t step = 0;
  std::uint64_t bytes = 0;
  bool complete = false;  // it has its manifest
};

struct RunFiles {
  std::filesystem::path folder;
  std::string config_text;  // config.yaml
  RunConfig config;
  std::vector<std::pair<std::string, Series>> curves;  // by the key of metrics.jsonl; "rec level 1" for a part of rec
  std::vector<std::int64_t> skipped;                   // steps without an update
  Series tokens;                                       // trained on, up to a step
  double seconds = 0;                                  // of all steps, without evaluation and saving
  double median_tokens_per_second = 0;
  std::int64_t last_step = 0;
  RankTotals ranks;
  std::vector<CheckpointFolder> checkpoints;  // oldest first
  std::optional<Trace> trace;

  const Series* curve(const std::string& name) const;
};

// Errors: InputError when the folder is no run folder.
RunFiles read_run(const std::filesystem::path& folder, const std::filesystem::path& trace);

// The objects of a file of JSON lines; lines that are none are passed over. No file: none.
std::vector<nlohmann::json> read_json_lines(const std::filesystem::path& file);

}  // namespace photon
