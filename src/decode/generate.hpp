// The generate job: prompts file in, results file out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "decode/engine.hpp"
#include "decode/open_model.hpp"

namespace photon {

struct GenerateOptions {
  std::filesystem::path prompts;  // "-": stdin
  std::filesystem::path output;   // "-": stdout
  GenerationOptions defaults;
  EngineOptions engine;
  bool retry_errors = false;
};

struct GenerateSummary {
  EngineStatistics engine;
  std::int64_t num_resumed = 0;  // rows that the output already held
  double seconds = 0;
};

// Runs the job, or goes on with it. Errors: Preempted when `stop_requested` became true, with all finished rows
// written; InputError before anything is written when the job cannot run as asked.
GenerateSummary generate(OpenModel& model, const Context& ctx, const GenerateOptions& options,
                         const std::function<bool()>& stop_requested);

// Half of the memory that this machine has free now, bytes: what caches may take unless told otherwise.
std::int64_t default_cache_memory();

}  // namespace photon
