// The generate job: prompts file in, results file out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "decode/engine.hpp"
#include "decode/open_model.hpp"
#include "decode/progress.hpp"
#include "decode/request.hpp"
#include "storage/line_writer.hpp"

namespace photon {

struct GenerateOptions {
  std::filesystem::path prompts;  // "-": stdin
  std::filesystem::path output;   // "-": stdout
  GenerationOptions defaults;
  EngineOptions engine;
  InputFormat input_format = InputFormat::automatic;
  Shard shard;
  Compression compression = Compression::none;  // of the output
  bool retry_errors = false;
  std::int64_t max_errors = -1;  // stop when more rows have failed, earlier runs' among them; -1: never
  ProgressOptions progress;
  std::string model_name = {};  // what results in OpenAI's form call the model
};

struct GenerateSummary {
  EngineStatistics engine;
  std::int64_t num_resumed = 0;  // rows that the output already held
  double seconds = 0;
};

// Runs the job, or goes on with it. Errors: Preempted when `stop_requested` became true, and Error when more than
// max_errors rows have failed, both with all finished rows written; InputError before anything is written when the job
// cannot run as asked.
GenerateSummary generate(OpenModel& model, const Context& ctx, const GenerateOptions& options,
                         const std::function<bool()>& stop_requested);

// Half of the memory that this machine has free now, bytes: what caches may take unless told otherwise.
std::int64_t default_cache_memory();

}  // namespace photon
