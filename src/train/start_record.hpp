// logs/starts.jsonl: one object for each time a run was started or continued (docs/report.md lists the keys).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config/run_config.hpp"
#include "partition/plan.hpp"

namespace photon {

struct StartRecord {
  std::int64_t step = 0;             // the step it continues after; 0 = a new run
  std::int64_t discarded_steps = 0;  // steps in the metrics that came after it: they are done again
  std::vector<std::string> hosts;    // of each rank
  std::string device;                // of rank 0: the GPU's name, empty on CPUs
  int threads = 1;                   // of a rank
};

// One line, without its end: the record, and from the plan and this machine the layout, the processor and the version.
std::string to_json_line(const StartRecord& record, const RunConfig& config, const Plan& plan);

// Appends a line. Errors: Error when it cannot be written.
void append_line(const std::filesystem::path& file, const std::string& line);

}  // namespace photon
