// photon init: a weights folder with fresh weights.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "checkpoint/weights.hpp"
#include "cli/commands.hpp"
#include "cli/one_process.hpp"
#include "config/run_config.hpp"
#include "model/parameters.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace {

namespace fs = std::filesystem;

struct InitOptions {
  std::string config;
  std::vector<std::string> overrides;
  std::uint64_t seed = 0;
  std::string output;
};

void refuse_existing(const fs::path& output) {
  std::error_code ignored;
  if (!fs::exists(output, ignored)) return;
  if (fs::is_directory(output, ignored) && fs::is_empty(output, ignored)) return;
  throw InputError(fmt::format("{} exists already", output.string()), "init replaces nothing",
                   "name another folder or remove that one");
}

// The tokenizer's file: as the configuration names it, from here or from the configuration's own folder. Empty for
// none.
fs::path find_tokenizer(const std::string& name, const fs::path& config_file) {
  if (name.empty() || name == "byte") return {};
  for (const fs::path& path : {fs::path(name), config_file.parent_path() / name}) {
    std::error_code ignored;
    if (fs::is_regular_file(path, ignored)) return path;
  }
  throw InputError(fmt::format("the tokenizer's file {} is missing", name),
                   fmt::format("neither here nor beside {}", config_file.string()),
                   "copy it there or set model.tokenizer to its path");
}

// An unsigned option would otherwise take -1 for its largest value.
std::string not_negative(const std::string& text) {
  return text.empty() || text[0] != '-' ? "" : fmt::format("{} is below 0", text);
}

void init(const InitOptions& options) {
  ModelConfig config = load_model_section(options.config, options.overrides);
  refuse_existing(options.output);
  const fs::path tokenizer = find_tokenizer(config.tokenizer, options.config);
  if (!tokenizer.empty()) config.tokenizer = tokenizer.filename().string();  // beside config.json from now on
  Parameters parameters(config, Space::host);
  initialize(parameters, options.seed);
  std::error_code ignored;
  fs::remove(options.output, ignored);  // an empty folder
  save_weights_folder(options.output, config, parameters, DType::f32, tokenizer);
  const nlohmann::ordered_json result = {
      {"output", options.output}, {"parameters", num_parameters(config)}, {"seed", options.seed}};
  std::cout << result.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
}

}  // namespace

void add_init(CLI::App& app) {
  auto options = std::make_shared<InitOptions>();
  CLI::App* command = app.add_subcommand("init",
                                         "Makes a weights folder with fresh weights: the same ones for the same "
                                         "configuration and seed, anywhere. Prints a summary\n"
                                         "as JSON.");
  command->footer(
      "Examples:\n"
      "  photon init --config configs/model/bytes-small.yaml --seed 1 --output model\n"
      "  photon init --config configs/train/photon-600m.yaml --set model.preset=photon-60m --set model.tokenizer=byte "
      "--output model");
  command->add_option("--config", options->config, "a YAML file with a section model; see photon help config")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--set", options->overrides,
                   "sets one key of the configuration, e.g. model.vocab_size=259; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--seed", options->seed, "of the weights")
      ->type_name("N")
      ->check(not_negative)
      ->capture_default_str();
  command->add_option("--output", options->output, "the new weights folder; it may exist only if it is empty")
      ->type_name("DIR")
      ->required();
  command->callback([options] { run_in_one_process("init", [&] { init(*options); }); });
}

}  // namespace photon::cli
