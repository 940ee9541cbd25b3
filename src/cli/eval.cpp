// photon eval: the loss of a model on a data file.
#include "eval/eval.hpp"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "cli/commands.hpp"
#include "cli/one_process.hpp"
#include "cli/place_options.hpp"
#include "comm/stop_signal.hpp"
#include "decode/open_model.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Measures a model on a data file that prepare wrote and prints one line of JSON: loss (nats a token), perplexity, "
    "bits\n"
    "per byte of the text. The file is read as sequences of T tokens behind each other, the last one shorter. With\n"
    "--prompt-tokens P only the tokens after the first P of every sequence count, so that hiergen and recgen, which "
    "decodes\n"
    "them from the prompt alone, are comparable.";

constexpr const char* examples =
    "Examples:\n"
    "  photon eval --model runs/first --data data/val.h5\n"
    "  photon eval --model runs/first --data data/val.h5 --mode recgen --prompt-tokens 512";

struct Options {
  std::string model;
  std::string data;
  std::string mode = "hiergen";
  PlaceOptions place;
  std::string numerics = "tuned";
  std::int64_t sequence_length = 0;
  EvalOptions eval;
};

void evaluate(Options options) {
  const StopSignal signals;
  const Place place(options.place.device, options.place.precision, parse_numerics(options.numerics));
  const Context& ctx = place.context();
  options.eval.mode = generation_mode(options.mode);
  const TokenFile file = TokenFile::open(options.data);
  const OpenModel model = open_model(options.model, place.space(), place.dtype());
  check_tokenizer(file, options.data, model, options.model);
  options.eval.sequence_length = options.sequence_length > 0
                                     ? options.sequence_length
                                     : default_sequence_length(options.model, model.config().max_length);
  const EvalResult result =
      evaluate_dataset(*model.model, ctx, file, options.eval, [] { throw_if_stopped("nothing is kept, start again"); });
  std::cout << to_json(result, options.eval) << std::endl;
}

}  // namespace

void add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", description);
  command->footer(examples);
  command->add_option("--model", options->model, "a weights folder, a checkpoint, or a run (its latest)")
      ->type_name("DIR")
      ->required();
  command->add_option("--data", options->data, "a data file, e.g. data/val.h5")->type_name("FILE")->required();
  command
      ->add_option("--sequence-length", options->sequence_length,
                   "tokens of a sequence (T); 0: what the run was trained with, else 2048")
      ->type_name("T")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30));
  command->add_option("--mode", options->mode, "which way of decoding is measured")
      ->type_name("hiergen|recgen")
      ->capture_default_str();
  command
      ->add_option("--prompt-tokens", options->eval.prompt_tokens, "first tokens of every sequence that do not count")
      ->type_name("P")
      ->capture_default_str();
  command->add_option("--batch-size", options->eval.batch_size, "sequences at once; 0: about 8192 tokens")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 20));
  command->add_option("--numerics", options->numerics, "deterministic: the same bits for any batch size; tuned: faster")
      ->type_name("deterministic|tuned")
      ->capture_default_str();
  add_place_options(*command, options->place);
  command->callback([options] { run_in_one_process("eval", [&] { evaluate(*options); }); });
}

}  // namespace photon::cli
