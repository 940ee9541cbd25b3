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
  std::string model_name = {};    // what results in OpenAI's form call the model
  bool ordered = false;           // rows of the output stand in the order of the prompts; always by parts
  bool keep_parts = false;        // after they were joined
  double deadline_seconds = 900;  // how long a rank waits for a sign of life of another
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
// The same with decoders from elsewhere; of the model its configuration and tokenizer are used.
GenerateSummary generate(const OpenModel& model, const DecoderSource& source, const GenerateOptions& options,
                         const std::function<bool()>& stop_requested);

// Rows of the shard in a prompts file, -1 where they cannot be counted beforehand. Errors: InputError when the file is
// damaged.
std::int64_t count_rows(const std::filesystem::path& prompts, const Shard& shard);

// What stops a job with more than options.max_errors failed rows.
[[noreturn]] void throw_too_many_errors(const GenerateOptions& options, std::int64_t num_errors);

// Half of the memory that this machine has free now, bytes: what caches may take unless told otherwise.
std::int64_t default_cache_memory();

}  // namespace photon
