// photon import: weights folders of others.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "checkpoint/llama.hpp"
#include "cli/commands.hpp"
#include "cli/weights_output.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace fs = std::filesystem;
namespace {

void run_import(const WeightsOutput& options) {
  options.check();
  if (!fs::is_directory(options.model)) {
    throw InputError(fmt::format("cannot import {}", options.model), "it is no folder",
                     "name a folder that holds a config.json");
  }
  write_weights(options,
                is_hugging_face_folder(options.model) ? import_llama(options.model) : load_weights(options.model));
}

}  // namespace

void add_import(CLI::App& app) {
  auto options = std::make_shared<WeightsOutput>();
  CLI::App* command = app.add_subcommand(
      "import",
      "Reads a Hugging Face Llama folder (config.json, *.safetensors, tokenizer.model) as a vanilla model and writes\n"
      "it as a weights folder. What photon does not compute is refused by name. A weights folder of photon's own\n"
      "is read too. Prints a summary as JSON.");
  command->footer("Example:\n  photon import --input TinyLlama-1.1B --output tinyllama --dtype bf16");
  command->add_option("--input", options->model, "folder to read")->type_name("DIR")->required();
  add_output_options(*command, *options);
  command->callback([options] { run_import(*options); });
}

}  // namespace photon::cli
