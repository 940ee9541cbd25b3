#include "cli/weights_output.hpp"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "support/error.hpp"

namespace photon::cli {

void WeightsOutput::check() const {
  if (force || !std::filesystem::exists(output)) return;
  throw InputError(fmt::format("cannot write to {}", output), "it exists",
                   "name a new folder, or replace it with --force");
}

void add_output_options(CLI::App& command, WeightsOutput& options) {
  command.add_option("--output", options.output, "folder to write; it appears when it is complete")
      ->type_name("DIR")
      ->required();
  command.add_option("--dtype", options.dtype, "type of the stored weights; bf16 rounds to nearest even")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->type_name("fp32|bf16")
      ->capture_default_str();
  command.add_flag("--force", options.force, "replace a weights folder that is already there");
}

void write_weights(const WeightsOutput& options, const LoadedModel& model) {
  save_weights_folder(options.output, model.config, model.parameters, options.stored_dtype(),
                      tokenizer_path(model.config, model.folder));
  print_summary(options, model);
}

void print_summary(const WeightsOutput& options, const LoadedModel& model) {
  nlohmann::ordered_json summary = {{"output", options.output},
                                    {"format", options.format},
                                    {"dtype", options.dtype},
                                    {"parameters", num_parameters(model.config)}};
  if (options.stored_dtype() == DType::f32) summary["hash"] = weights_hash(model.parameters);  // rounding changes it
  std::cout << summary.dump() << std::endl;
}

}  // namespace photon::cli
