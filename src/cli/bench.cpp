// photon bench: measured figures as JSON lines.
#include "cli/bench.hpp"

#include <CLI/CLI.hpp>

#include "cli/commands.hpp"

namespace photon::cli {

void add_bench(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("bench", "Measures the speed of this machine and prints figures as JSON lines.");
  command->require_subcommand(1);
  add_bench_train(*command);
  add_bench_decode(*command);
  add_bench_kernels(*command);
  add_bench_comm(*command);
  add_bench_cluster(*command);
}

}  // namespace photon::cli
