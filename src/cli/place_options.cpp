#include "cli/place_options.hpp"

#include <CLI/CLI.hpp>

namespace photon::cli {

void add_place_options(CLI::App& command, PlaceOptions& options) {
  command.add_option("--device", options.device, "where to compute; auto: the GPU where there is one")
      ->type_name("auto|cpu|cuda")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command
      .add_option("--precision", options.precision,
                  "of weights, activations and caches; auto: bf16 on a GPU, fp32 on a CPU")
      ->type_name("auto|fp32|bf16")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}));
}

void add_memory_limit_option(CLI::App& command, double& gibibytes) {
  command
      .add_option("--memory-limit", gibibytes,
                  "as if each GPU had no more memory than this, weights included (on a CPU: each process); 0: no limit")
      ->type_name("GIB")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
}

}  // namespace photon::cli
