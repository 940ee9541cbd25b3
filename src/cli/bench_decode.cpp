// photon bench decode: decoding speed on random prompts.
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "blueprint/parameters.hpp"
#include "cli/bench.hpp"
#include "cli/one_process.hpp"
#include "decode/engine.hpp"
#include "decode/generate.hpp"
#include "decode/open_model.hpp"
#include "kernels/matrix_library.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon::cli {
namespace {

struct Options {
  std::string preset;
  std::string model;
  std::string mode = "hiergen";
  std::string numerics = "tuned";
  std::int64_t batch = 64;
  std::int64_t prompt = 128;
  std::int64_t new_tokens = 128;
  std::int64_t look_ahead = 0;
};

class Discard : public ResultSink {
 public:
  void result(const Result&) override {}
  void error(const RowError& error) override { throw Error("a row failed", error.message, ""); }
};

// One batch of greedy rows that all run to their full length.
struct Measured {
  EngineStatistics engine;
  double seconds = 0;
};

Measured decode_batch(OpenModel& model, const Context& ctx, const Options& options, std::int64_t new_tokens) {
  EngineOptions engine_options;
  engine_options.mode = generation_mode(options.mode);
  engine_options.max_batch = options.batch;
  engine_options.memory_bytes = 2 * default_cache_memory();
  engine_options.look_ahead = options.look_ahead;
  Engine engine(ctx, decoder_source(*model.model, ctx), nullptr, -1, engine_options);
  std::int64_t row = 0;
  const auto next = [&]() -> std::optional<Row> {
    if (row == options.batch) return std::nullopt;
    Request request;
    request.id = std::to_string(row);
    request.line = row;
    request.options.max_new_tokens = new_tokens;
    for (std::int64_t i = 0; i < options.prompt; ++i) {
      request.prompt.push_back(
          static_cast<std::int32_t>(random_bits(1, static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(i)) %
                                    static_cast<std::uint64_t>(model.config().vocab_size)));
    }
    ++row;
    return request;
  };
  Discard discard;
  const auto start = std::chrono::steady_clock::now();
  engine.run(next, discard, [](const EngineStatistics&) { return true; });
  return {engine.statistics(), std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
}

void measure(const Options& options) {
  if (options.preset.empty() == options.model.empty()) {
    throw InputError("bench decode measures one model", "it takes either --preset or --model", "give one of them");
  }
  OpenModel model = options.preset.empty() ? open_model(options.model) : fresh_model(preset(options.preset), 1);
  if (generation_mode(options.mode) == GenerationMode::recgen) require_recgen(model.config());
  const Context ctx = host_context(options.numerics);
  decode_batch(model, ctx, options, 1);  // touches all memory, starts the threads
  const Measured result = decode_batch(model, ctx, options, options.new_tokens);
  if (result.engine.num_slots < options.batch) {
    throw Error(fmt::format("the caches of {} sequences do not fit", options.batch),
                fmt::format("the memory that is free holds {}", result.engine.num_slots), "choose a smaller --batch");
  }
  const auto new_tokens = static_cast<double>(result.engine.new_tokens);
  const nlohmann::ordered_json line = {
      {"bench", "decode"},
      {"model", options.preset.empty() ? options.model : options.preset},
      {"parameters", num_parameters(model.config())},
      {"mode", options.mode},
      {"batch", options.batch},
      {"prompt", options.prompt},
      {"new_tokens", options.new_tokens},
      {"threads", omp_get_max_threads()},
      {"precision", "fp32"},
      {"numerics", options.numerics},
      {"tokens_per_second", new_tokens / result.engine.decode_seconds},
      {"end_to_end_tokens_per_second", new_tokens / result.seconds},
      {"prompt_tokens_per_second", static_cast<double>(result.engine.prompt_tokens) / result.engine.prefill_seconds},
      {"decode_seconds", result.engine.decode_seconds},
      {"prefill_seconds", result.engine.prefill_seconds},
      {"seconds", result.seconds},
      {"matrix_library", matrix_library()},
      {"cache_bytes", result.engine.cache_bytes},
  };
  std::cout << line.dump() << std::endl;
}

}  // namespace

void add_bench_decode(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("decode",
                           "Decodes random prompts greedily, all rows at once and to their full length, and prints one "
                           "JSON line: new tokens a\n"
                           "second of decoding alone (tokens_per_second, prompts encoded before) and of everything.");
  command->footer("Example:\n  photon bench decode --preset photon-60m --batch 64 --prompt 128 --new-tokens 128");
  auto* name =
      command->add_option("--preset", options->preset, "a preset's name, with fresh weights")->type_name("NAME");
  command->add_option("--model", options->model, "a weights folder, a checkpoint, or a run")
      ->type_name("DIR")
      ->excludes(name);
  const auto number = [&](const char* option, std::int64_t& value, const char* help, std::int64_t least) {
    command->add_option(option, value, help)
        ->type_name("N")
        ->capture_default_str()
        ->check(CLI::Range(least, std::int64_t{1} << 30));
  };
  number("--batch", options->batch, "sequences", 1);
  number("--prompt", options->prompt, "tokens of every prompt", 0);
  number("--new-tokens", options->new_tokens, "tokens decoded after it", 1);
  number("--look-ahead", options->look_ahead, "recgen: groups the coarse stream runs ahead; 0: chosen from the batch",
         0);
  command->add_option("--mode", options->mode, "the way of decoding")
      ->type_name("hiergen|recgen")
      ->capture_default_str();
  command->add_option("--numerics", options->numerics, "deterministic, or the fastest")
      ->type_name("deterministic|tuned")
      ->capture_default_str();
  command->callback([options] { run_in_one_process("bench decode", [&] { measure(*options); }); });
}

}  // namespace photon::cli
