// photon train: trains a model, or continues a run.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/device_option.hpp"
#include "cli/on_ranks.hpp"
#include "config/run_config.hpp"
#include "train/trainer.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Trains a model as a configuration file says, and keeps everything in a run folder: the resolved configuration,\n"
    "metrics.jsonl, checkpoints, the weights. Started again with the same folder it continues from the last "
    "checkpoint; a\n"
    "finished run exits at once with 0. SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 save and exit with 75. Under mpirun or "
    "srun the "
    "ranks are\n"
    "data-parallel replicas, or share the model as the section parallel says.";

constexpr const char* examples =
    "Examples:\n"
    "  photon train --config configs/train/bytes-small.yaml\n"
    "  photon train --config configs/train/bytes-small.yaml --run runs/longer --set train.steps=20000 --set "
    "train.learning_rate=1e-3\n"
    "  photon train --config configs/train/bytes-small.yaml --run runs/tuned --init-from runs/longer\n"
    "  mpirun -np 2 photon train --config configs/train/bytes-small.yaml\n"
    "  mpirun -np 4 photon train --config configs/train/quickstart-pipeline.yaml --trace trace.json --trace-steps "
    "10:12";

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  std::string trace_steps;
  std::string device;
  TrainOptions train;
};

void train(Options options) {
  if (options.train.run.empty())
    options.train.run = std::filesystem::path("runs") / std::filesystem::path(options.config).stem();
  if (!options.trace_steps.empty()) options.train.trace_steps = parse_step_range(options.trace_steps);
  if (!options.device.empty()) options.overrides.push_back("train.device=" + options.device);
  run_on_ranks(
      [&](World& world) { Trainer(world, load_run_config(options.config, options.overrides), options.train).run(); });
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", description);
  command->footer(examples);
  command->add_option("--config", options->config, "a YAML file; see photon help config")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--set", options->overrides,
                   "sets one key of the configuration, e.g. train.steps=100; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--run", options->train.run, "the run folder; runs/<name of the configuration file> by default")
      ->type_name("DIR");
  command
      ->add_option("--init-from", options->train.init_from,
                   "start from these weights: a weights folder, a checkpoint or a run")
      ->type_name("DIR");
  add_device_option(*command, options->device);
  command->add_flag("--fresh", options->train.fresh,
                    "start over: the run that is in the folder is renamed to DIR.old-1 (-2, ...), never deleted");
  command->add_flag("--check", options->train.check,
                    "look at configuration, data, memory and disk as the run would, and stop: nothing is changed");
  CLI::Option* trace =
      command
          ->add_option("--trace", options->train.trace,
                       "write when every rank did what in a few steps, for ui.perfetto.dev and photon report")
          ->type_name("FILE");
  command
      ->add_option("--trace-steps", options->trace_steps,
                   "the steps of --trace, counted from 1; by default three after the first one of this start")
      ->type_name("A:B")
      ->needs(trace);
  command
      ->add_option("--time-limit", options->train.time_limit,
                   "saves and ends as after SIGTERM, with exit code 75, when the command has run so long; 0: none")
      ->type_name("SECONDS")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->callback([options] { train(*options); });
}

}  // namespace photon::cli
