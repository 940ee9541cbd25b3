// photon bench train: training speed on random tokens.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "cli/bench.hpp"
#include "cli/count_option.hpp"
#include "cli/device_option.hpp"
#include "config/run_config.hpp"
#include "kernels/matrix_library.hpp"
#include "support/error.hpp"
#include "tensor/device.hpp"
#include "train/device_peak.hpp"
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
  std::int64_t warmup = 3;
  std::string device = "auto";
  std::string precision;
  bool deterministic = false;
};

// What --precision says; empty: bf16 on a GPU, fp32 on the CPU.
Precision precision_option(const std::string& name, bool on_gpu) {
  if (name.empty()) return on_gpu ? Precision::bf16 : Precision::fp32;
  return name == "fp32" ? Precision::fp32 : name == "bf16" ? Precision::bf16 : Precision::fp8;
}

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
  config.train.device = device_option(options.device);
  const bool on_gpu = space_of_device(options.device) == Space::device;
  config.train.precision = precision_option(options.precision, on_gpu);
  config.parallel.microbatch_size = options.microbatch;
  if (options.microbatch > 0 && options.batch % options.microbatch != 0) {
    throw InputError(fmt::format("--microbatch {} does not divide --batch {}", options.microbatch, options.batch), "",
                     "change one of them");
  }
  const Throughput result = measure_training(config, options.warmup, options.steps);
  nlohmann::ordered_json line = {
      {"bench", "train"},
      {"model", options.preset.empty() ? options.config : options.preset},
      {"parameters", num_parameters(config.model)},
      {"batch", options.batch},
      {"microbatch", result.microbatch},
      {"sequence_length", options.sequence_length},
      {"steps", options.steps},
      {"warmup", options.warmup},
      {"device", on_gpu ? result.device : "cpu"},
      {"precision", name_of(config.train.precision)},
      {"deterministic", options.deterministic},
      {"tokens_per_second", result.tokens_per_second},
      {"seconds_per_step", result.median_seconds},
      {"step_seconds", result.step_seconds},
      {"loss", result.last_loss},
      {"phase_seconds",
       {{"forward_backward", result.phases.forward_backward},
        {"gradient_norm", result.phases.norm},
        {"optimizer", result.phases.optimizer}}},
      {"model_gflops", result.model_gflops},
      {"matrix_gflops", result.matrix_gflops},
      {"arena_bytes", result.arena_bytes},
  };
  if (on_gpu) {
    line["model_tflops"] = result.model_gflops / 1e3;
    line["peak_memory_bytes"] = result.peak_bytes;
    // Model FLOPs a second over what the card's matrix units can do at most.
    const DevicePeak peak = device_peak(result.device, config.train.precision);
    if (peak.flops > 0) {
      line["mfu"] = result.model_gflops * 1e9 / peak.flops;
      line["peak_tflops"] = peak.flops / 1e12;
      line["peak_source"] = fmt::format("{} {}", peak.source, name_of(config.train.precision));
    }
  } else {
    line["threads"] = result.num_threads;
    line["matrix_library"] = matrix_library();
  }
  std::cout << line.dump() << std::endl;
}

}  // namespace

void add_bench_train(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "train",
      "Trains a model on random tokens for some steps and prints one JSON line: tokens a second by the median step, "
      "the model's\n"
      "FLOPs a second (billions), and beside them what one large matrix product in fp32 or bf16 reaches here; on a GPU "
      "also its\n"
      "peak with its source and the memory in use; and the time of each phase of the last step.");
  command->footer(
      "Example:\n  photon bench train --preset photon-60m --batch 4 --sequence-length 1024 --steps 5\n"
      "  photon bench train --device cuda --preset photon-600m --precision bf16 --batch 16 --sequence-length 2048");
  auto* name = command->add_option("--preset", options->preset, "a preset's name, e.g. photon-60m")->type_name("NAME");
  command->add_option("--config", options->config, "a YAML file with a section model")
      ->type_name("FILE")
      ->excludes(name);
  command->add_option("--set", options->overrides, "sets one key of the configuration; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->excludes(name);
  const auto number = [&](const char* option, std::int64_t& value, const char* help, std::int64_t least) {
    add_count_option(*command, option, value, help, least);
  };
  number("--batch", options->batch, "sequences a step", 1);
  number("--microbatch", options->microbatch,
         "sequences a forward and backward; 0: the whole batch, on a GPU what memory suggests", 0);
  number("--sequence-length", options->sequence_length, "tokens of a sequence", 1);
  number("--steps", options->steps, "measured steps", 1);
  number("--warmup", options->warmup, "steps before them", 0);
  add_device_option(*command, options->device);
  command->add_option("--precision", options->precision, "of activations and products; bf16 on a GPU, else fp32")
      ->type_name("fp32|bf16|fp8")
      ->check(CLI::IsMember({"fp32", "bf16", "fp8"}));
  command->add_flag("--deterministic", options->deterministic, "results that do not depend on threads or batch");
  command->callback([options] { measure(*options); });
}

}  // namespace photon::cli
