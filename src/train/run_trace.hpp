// The trace of some steps of a run: the spans of every rank on one clock, in one file (docs/report.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/clock_offsets.hpp"
#include "comm/communicator.hpp"
#include "trace/trace.hpp"

namespace photon {

// Steps counted from 1, both ends included.
struct StepRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

// "3:5", or "3" for one step. Errors: InputError.
StepRange parse_step_range(const std::string& text);

class RunTrace {
 public:
  // `label` says what this rank hosts. Every rank has one of these and calls the same things.
  RunTrace(std::filesystem::path file, StepRange steps, std::string label, std::string host);

  bool wants(std::int64_t step) const { return !written_ && step >= steps_.first && step <= steps_.last; }
  // Collective. Before the first step that is wanted, the clocks are compared.
  void before_step(std::int64_t step, Communicator& all);
  // Collective after the last step that is wanted: compares the clocks again, and rank 0 writes the file.
  void after_step(std::int64_t step, std::vector<TraceSpan> spans, Communicator& all);
  // Collective: writes what there is, where training ends early.
  void finish(Communicator& all);

 private:
  void write(Communicator& all);

  std::filesystem::path file_;
  StepRange steps_;
  std::string label_;
  std::string host_;
  std::vector<ClockOffset> clocks_;  // rank 0: at the first traced step
  std::vector<TraceSpan> spans_;
  std::int64_t first_ = 0;  // steps that were traced
  std::int64_t last_ = 0;
  bool written_ = false;
};

}  // namespace photon
