// photon export: a model's weights as a folder.
#include <CLI/CLI.hpp>
#include <memory>

#include "checkpoint/checkpoint.hpp"
#include "checkpoint/llama.hpp"
#include "cli/commands.hpp"
#include "cli/weights_output.hpp"
#include "tokenizer/tokenizer.hpp"

namespace photon::cli {
namespace {

LlamaTokens tokens_of(const LoadedModel& model) {
  LlamaTokens tokens;
  if (!model.config.tokenizer.empty()) {
    const auto tokenizer = make_tokenizer(model.config.tokenizer, model.folder);
    tokens.bos = tokenizer->bos() >= 0 ? tokenizer->bos() : tokenizer->eos();
    tokens.eos = tokenizer->eos();
    tokens.pad = tokenizer->pad();
  }
  if (model.config.start_token >= 0) tokens.bos = model.config.start_token;
  return tokens;
}

void run_export(const WeightsOutput& options) {
  options.check();
  const LoadedModel model = resolve_model(options.model);
  if (options.format == "photon") {
    write_weights(options, model);
    return;
  }
  export_llama(options.output, model.config, model.parameters, options.stored_dtype(), tokens_of(model),
               tokenizer_path(model.config, model.folder));
  print_summary(options, model);
}

}  // namespace

void add_export(CLI::App& app) {
  auto options = std::make_shared<WeightsOutput>();
  CLI::App* command =
      app.add_subcommand("export",
                         "Writes a model's weights to a folder: config.json, model.safetensors, the tokenizer's file.\n"
                         "Prints a summary as JSON.");
  command->footer(
      "Examples:\n"
      "  photon export --model runs/first --output first-weights --dtype bf16\n"
      "  photon export --model runs/baseline/checkpoints/step-2000 --output baseline-hf --format hf");
  command->add_option("--model", options->model, "weights folder, checkpoint, or run folder (its newest checkpoint)")
      ->type_name("DIR")
      ->required();
  add_output_options(*command, *options);
  command
      ->add_option("--format", options->format,
                   "photon: photon's own form; hf: opens as LlamaForCausalLM (vanilla models only)")
      ->check(CLI::IsMember({"photon", "hf"}))
      ->type_name("photon|hf")
      ->capture_default_str();
  command->callback([options] { run_export(*options); });
}

}  // namespace photon::cli
