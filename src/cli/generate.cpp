// photon generate: continues prompts.
#include "decode/generate.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.hpp"
#include "cli/decoder_shards_option.hpp"
#include "cli/on_ranks.hpp"
#include "cli/place_options.hpp"
#include "comm/share_cores.hpp"
#include "comm/stop_signal.hpp"
#include "decode/generate_ranks.hpp"
#include "support/log.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Continues every prompt of a JSON lines file: rows {\"id\", \"prompt\"} or {\"id\", \"tokens\"}, which may set "
    "their own\n"
    "temperature, top_k, top_p, min_p, repetition_penalty, seed, max_new_tokens, n and stop; or rows of an OpenAI "
    "batch\n"
    "({\"custom_id\", \"method\", \"url\": \"/v1/completions\", \"body\"}), answered in the same form. Results are "
    "appended "
    "to the\n"
    "output row by row, in the order in which they are done: {\"id\", \"text\", \"tokens\", \"finish_reason\"}. A bad "
    "row gives\n"
    "{\"id\", \"error\"}. Start the same command again to go on where it was stopped: rows in the output are skipped.\n"
    "Files may be gzip or zstd: prompts are known by their first bytes, the output by its ending.\n"
    "Under mpirun or srun the ranks share the rows: each keeps its results in OUTPUT.parts, and they are joined to "
    "OUTPUT at the end.";

constexpr const char* examples =
    "Examples:\n"
    "  photon generate --model runs/first --prompts prompts.jsonl --output texts.jsonl --max-new-tokens 200\n"
    "  photon generate --model runs/first --prompts prompts.jsonl --output texts.jsonl --temperature 0.8 --top-p 0.95 "
    "--n 4\n"
    "  mpirun -np 4 photon generate --model runs/first --prompts prompts.jsonl --output texts.jsonl --ordered\n"
    "  echo '{\"prompt\": \"In the beginning\"}' | photon generate --model runs/first --prompts - --output -";

struct Options {
  std::string model;
  std::string mode = "hiergen";
  std::string numerics = "deterministic";
  PlaceOptions place;
  int shards = 0;     // of level 1's decoder, for each coarse rank
  double memory = 0;  // GiB; 0: chosen
  std::string input_format = "auto";
  std::string compression = "auto";
  std::string shard = "0/1";
  double time_limit = 0;  // seconds; 0: none
  GenerateOptions generate;
};

// Whether the job is to end: a signal came, or its time is up.
class StopWish {
 public:
  explicit StopWish(double time_limit) : time_limit_(time_limit) {}
  bool operator()() {
    if (!said_ && time_limit_ > 0 && seconds_since_start() >= time_limit_) {
      log_info("generate: the time limit of {} s is up", time_limit_);
      said_ = true;
    }
    return said_ || StopSignal::received() != 0;
  }

 private:
  double seconds_since_start() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  double time_limit_;
  bool said_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// What results call the model: the folder's own name.
std::string model_name(const std::string& model) {
  const std::filesystem::path path = std::filesystem::absolute(model).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

std::string ranks_text(const DecodeLayout& layout) {
  if (layout.num_ranks == 1) return "";
  if (layout.shards == 0) return fmt::format("{} ranks, ", layout.num_ranks);
  return fmt::format("{} x (1 coarse rank + {} shard{}), ", layout.num_groups(), layout.shards,
                     layout.shards == 1 ? "" : "s");
}

void generate_texts(World& world, Options options) {
  const StopSignal signals;
  world.set_stop_request([] { return StopSignal::received() != 0; });
  world.enter("set-up", options.generate.deadline_seconds);
  share_cores(world.local_size());
  const DecodeLayout layout = decode_layout(world.size(), options.shards);
  const bool many = world.size() > 1;
  StopWish stop(options.time_limit);
  options.generate.input_format = input_format(options.input_format);
  options.generate.compression = parse_compression(options.compression, options.generate.output);
  options.generate.shard = parse_shard(options.shard);
  options.generate.model_name = model_name(options.model);
  const int gpu = many && space_of_device(options.place.device) == Space::device ? world.use_gpu() : 0;
  Place place(options.place.device, options.place.precision, parse_numerics(options.numerics), gpu);
  place.limit_memory(memory_limit_bytes(options.place.memory_limit));
  options.generate.engine.mode = generation_mode(options.mode);
  if (options.generate.engine.top_logprobs > 0) options.generate.engine.logprobs = true;
  validate(options.generate.defaults);
  DecodeGroup group(world, layout, open_model_on(layout, world.rank(), options.model, place.space(), place.dtype()),
                    place.context());
  if (!group.takes_prompts()) {
    world.enter("decoding", options.generate.deadline_seconds);
    return group.serve([] { return StopSignal::received() != 0; });
  }
  EngineOptions& engine_options = options.generate.engine;
  const bool own_chunks = engine_options.mode == GenerationMode::recgen && layout.shards == 0;
  const CacheMemory memory = cache_memory(place, group.model().config(), own_chunks, world.local_size());
  engine_options.memory_bytes = options.memory > 0 ? static_cast<std::int64_t>(options.memory * 0x1p30) : memory.bytes;
  engine_options.prefill_tokens = memory.prefill_tokens;
  engine_options.max_chunks = memory.max_chunks;
  log_info("generate: {}{} in {}, {:.1f} GiB for caches{}", ranks_text(layout), place.device_name(),
           place.precision_name(), static_cast<double>(options.generate.engine.memory_bytes) / 0x1p30,
           many ? " each" : "");
  const auto stop_requested = [&] { return stop() || group.stop_requested(); };
  GenerateSummary summary;
  try {
    summary = layout.num_groups() > 1 || needs_parts(options.generate)
                  ? generate_on_ranks(world, group, options.generate, stop_requested)
                  : generate(group.model(), group.source(), options.generate, stop_requested);
  } catch (const Preempted&) {
    group.finish(true);
    throw;
  }
  group.finish(false);
  if (world.rank() != 0) return;
  const EngineStatistics& engine = summary.engine;
  const nlohmann::ordered_json line = {
      {"rows", engine.rows},
      {"errors", engine.errors},
      {"resumed", summary.num_resumed},
      {"prompt_tokens", engine.prompt_tokens},
      {"new_tokens", engine.new_tokens},
      {"seconds", summary.seconds},
      {"tokens_per_second", static_cast<double>(engine.new_tokens) / std::max(summary.seconds, 1e-9)},
  };
  // Where the results go to stdout, nothing else does.
  if (options.generate.output == "-") {
    log_info("generate: {}", line.dump());
  } else {
    std::cout << line.dump() << std::endl;
  }
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", description);
  command->footer(examples);
  const auto add = [&](const char* name, auto& value, const char* type, const char* help) {
    return command->add_option(name, value, help)->type_name(type);
  };
  GenerateOptions& job = options->generate;
  GenerationOptions& defaults = job.defaults;
  SamplingOptions& sampling = defaults.sampling;
  add("--model", options->model, "DIR", "a weights folder, a checkpoint, or a run (its latest)")->required();
  add("--prompts", job.prompts, "FILE", "JSON lines, also gzip or zstd; - for stdin")->required();
  add("--output", job.output, "FILE", "JSON lines, appended, compressed when it ends in .gz or .zst; - for stdout")
      ->required();
  add("--mode", options->mode, "hiergen|recgen", "exact, or with all chunks in parallel (docs/decoding.md)")
      ->capture_default_str();
  add("--max-new-tokens", defaults.max_new_tokens, "N", "tokens after the prompt")->capture_default_str();
  add("--temperature", sampling.temperature, "X", "0: greedy")->capture_default_str();
  add("--top-k", sampling.top_k, "K", "keep the K most likely tokens; 0: all")->capture_default_str();
  add("--top-p", sampling.top_p, "P", "keep the most likely tokens that make up P together; 1: all")
      ->capture_default_str();
  add("--min-p", sampling.min_p, "P", "keep tokens of at least P times the largest probability; 0: all")
      ->capture_default_str();
  add("--repetition-penalty", sampling.repetition_penalty, "X", "makes tokens seen before less likely; 1: off")
      ->capture_default_str();
  add("--seed", defaults.seed, "S", "random numbers are a function of it, the row's id and the token's position")
      ->capture_default_str();
  add("--n", defaults.num_samples, "N", "samples of every prompt")->capture_default_str();
  add("--stop", defaults.stop, "TEXT", "ends a text where TEXT would begin; may be repeated")->allow_extra_args(false);
  add("--max-batch", job.engine.max_batch, "N", "sequences decoded at once, at most")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  add("--memory", options->memory, "GIB",
      "memory for caches: the batch is made to fit; 0: on a CPU half of what is free, on a GPU nearly all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  add("--look-ahead", job.engine.look_ahead, "N",
      "recgen: groups the coarse stream runs ahead; 0: chosen from the batch")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30));
  add("--numerics", options->numerics, "deterministic|tuned",
      "deterministic: a row's text does not depend on the batch; tuned: faster")
      ->capture_default_str();
  add_decoder_shards_option(*command, options->shards);
  add_place_options(*command, options->place);
  add_memory_limit_option(*command, options->place.memory_limit);
  add("--input-format", options->input_format, "auto|native|openai",
      "what rows are: photon's own, those of an OpenAI batch, or each as it looks like")
      ->capture_default_str();
  add("--output-compression", options->compression, "auto|none|gzip|zstd", "auto: by the output's ending")
      ->capture_default_str();
  add("--shard", options->shard, "I/N", "takes only the lines whose number (from 0) leaves I when divided by N")
      ->capture_default_str();
  add("--max-errors", job.max_errors, "N",
      "ends the job with exit code 1 when more than N rows have failed, earlier starts counted; -1: never")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{-1}, std::int64_t{1} << 60));
  add("--time-limit", options->time_limit, "SECONDS",
      "ends as after SIGTERM, with exit code 75, when the command has run so long; 0: none")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  add("--progress-json", job.progress.json, "FILE",
      "appends the progress as JSON lines; - for stderr, in place of the lines for people");
  add("--progress-every", job.progress.every_seconds, "SECONDS", "between two lines of progress")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--logprobs", job.engine.logprobs,
                    "adds the tokens' log-probabilities under the model to the results");
  add("--top-logprobs", job.engine.top_logprobs, "N",
      "with it, and --logprobs, those of the N likeliest tokens at each place (OpenAI's rows ask for up to N)")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, most_top_tokens));
  command->add_flag("--retry-errors", job.retry_errors, "tries rows again whose result in the output is an error");
  command->add_flag("--ordered", job.ordered, "the output gets the order of the prompts, once all rows are done");
  command->add_flag("--keep-parts", job.keep_parts, "leaves OUTPUT.parts, what each rank wrote, when they were joined");
  add("--deadline", job.deadline_seconds, "SECONDS",
      "many ranks: how long one waits for a sign of life of another; longer than the slowest group of tokens")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->callback([options] { run_on_ranks([&](World& world) { generate_texts(world, *options); }); });
}

}  // namespace photon::cli
