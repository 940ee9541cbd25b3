// photon bench train: training speed on random tokens.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "cli/bench.hpp"
#include "config/run_config.hpp"
#include "kernels/matrix_library.hpp"
#include "support/error.hpp"
#include "train/throughput.hpp"

namespace photon::cli {
namespace {

struct Options {
  std::string preset;
  std::string config;
  std::vector<std::string> overrides;
  std::int64_t batch = 4;
  std::int64_t microbatch = 0;
  std::int64_t sequence_length = 1024;
  std::int64_t steps = 5;
  std::int64_t warmup = 1;
  bool deterministic = false;
};

void measure(const Options& options) {
  if (options.preset.empty() == options.config.empty()) {
    throw InputError("bench train measures one model", "it takes either --preset or --config", "give one of them");
  }
  RunConfig config;
  config.model =
      options.preset.empty() ? load_model_section(options.config, options.overrides) : preset(options.preset);
  config.train.batch_size = options.batch;
  config.train.sequence_length = options.sequence_length;
  config.train.deterministic = options.deterministic;
  config.parallel.microbatch_size = options.microbatch;
  if (options.microbatch > 0 && options.batch % options.microbatch != 0) {
    throw InputError(fmt::format("--microbatch {} does not divide --batch {}", options.microbatch, options.batch), "",
                     "change one of them");
  }
  const Throughput result = measure_training(config, options.warmup, options.steps);
  const nlohmann::ordered_json line = {
      {"bench", "train"},
      {"model", options.preset.empty() ? options.config : options.preset},
      {"parameters", num_parameters(config.model)},
      {"batch", options.batch},
      {"microbatch", options.microbatch == 0 ? options.batch : options.microbatch},
      {"sequence_length", options.sequence_length},
      {"steps", options.steps},
      {"threads", result.num_threads},
      {"precision", "fp32"},
      {"deterministic", options.deterministic},
      {"tokens_per_second", result.tokens_per_second},
      {"seconds_per_step", result.median_seconds},
      {"step_seconds", result.step_seconds},
      {"model_gflops", result.model_gflops},
      {"matrix_gflops", result.matrix_gflops},
      {"matrix_library", matrix_library()},
      {"arena_bytes", result.arena_bytes},
  };
  std::cout << line.dump() << std::endl;
}

}  // namespace

void add_bench_train(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "train",
      "Trains a model on random tokens for some steps and prints one JSON line: tokens a second by the median step, "
      "the model's\n"
      "FLOPs a second (billions), and beside them what one large matrix product reaches on the same threads.");
  command->footer("Example:\n  photon bench train --preset photon-60m --batch 4 --sequence-length 1024 --steps 5");
  auto* name = command->add_option("--preset", options->preset, "a preset's name, e.g. photon-60m")->type_name("NAME");
  command->add_option("--config", options->config, "a YAML file with a section model")
      ->type_name("FILE")
      ->excludes(name);
  command->add_option("--set", options->overrides, "sets one key of the configuration; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->excludes(name);
  const auto number = [&](const char* option, std::int64_t& value, const char* help, std::int64_t least) {
    command->add_option(option, value, help)
        ->type_name("N")
        ->capture_default_str()
        ->check(CLI::Range(least, std::int64_t{1} << 30));
  };
  number("--batch", options->batch, "sequences a step", 1);
  number("--microbatch", options->microbatch, "sequences a forward and backward; 0: the whole batch", 0);
  number("--sequence-length", options->sequence_length, "tokens of a sequence", 1);
  number("--steps", options->steps, "measured steps", 1);
  number("--warmup", options->warmup, "steps before them", 0);
  command->add_flag("--deterministic", options->deterministic, "results that do not depend on threads or batch");
  command->callback([options] { measure(*options); });
}

}  // namespace photon::cli
