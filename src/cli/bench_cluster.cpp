// photon bench cluster: this machine as a cluster file.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cli/bench.hpp"
#include "comm/world.hpp"
#include "config/run_config.hpp"
#include "support/log.hpp"
#include "train/calibration.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Measures this machine and prints it as a cluster file for photon plan, whose predictions then are of runs "
    "here:\n"
    "the rate of matrix products, what training the model of --config makes of it in microbatches of\n"
    "parallel.microbatch_size, copies, and messages; on CPUs, or with train.device cuda on GPUs. All ranks measure at "
    "once;\n"
    "start as many as the run will have, under mpirun or srun.";

constexpr const char* examples =
    "Example:\n"
    "  mpirun -np 4 photon bench cluster --config configs/train/quickstart-pipeline.yaml > here.yaml\n"
    "  photon plan --config configs/train/quickstart-pipeline.yaml --cluster here.yaml";

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  std::int64_t steps = 5;
};

void measure(const Options& options) {
  const RunConfig config = load_run_config(options.config, options.overrides);
  World world;
  init_logging(world.rank(), world.size());
  world.run([&] {
    world.enter("bench", 600);
    const ClusterConfig cluster = measure_cluster(world, config, options.steps);
    if (world.rank() == 0) std::cout << to_yaml(cluster) << std::flush;
  });
}

}  // namespace

void add_bench_cluster(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("cluster", description);
  command->footer(examples);
  command->add_option("--config", options->config, "a YAML file; see photon help config")
      ->type_name("FILE")
      ->required();
  command->add_option("--set", options->overrides, "sets one key of the configuration; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--steps", options->steps, "measured steps of training")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  command->callback([options] { measure(*options); });
}

}  // namespace photon::cli
