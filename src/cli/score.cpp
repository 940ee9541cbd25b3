// photon score: log-likelihoods.
#include "eval/score.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.hpp"
#include "cli/one_process.hpp"
#include "cli/place_options.hpp"
#include "comm/stop_signal.hpp"
#include "support/log.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Gives the log-likelihood (natural logarithm) of continuations given their contexts. Rows of the input, JSON "
    "lines:\n"
    "{\"id\", \"context\", \"continuation\"} or {\"id\", \"context_tokens\", \"continuation_tokens\"}; of the output, "
    "in the same\n"
    "order: {\"id\", \"logprob\", \"num_tokens\", \"token_logprobs\", \"is_greedy\"}. A bad row gives {\"id\", "
    "\"error\"}. The output is\n"
    "replaced when all rows are done.";

constexpr const char* examples =
    "Examples:\n"
    "  photon score --model runs/first --input rows.jsonl --output scores.jsonl\n"
    "  photon score --model runs/first --input rows.jsonl --output scores.jsonl --logits logits.h5";

struct Options {
  std::string model;
  std::string mode = "hiergen";
  PlaceOptions place;
  std::string numerics = "deterministic";
  ScoreOptions score;
};

void score_rows(Options options) {
  const StopSignal signals;
  const Place place(options.place.device, options.place.precision, parse_numerics(options.numerics));
  const Context& ctx = place.context();
  options.score.mode = generation_mode(options.mode);
  OpenModel model = open_model(options.model, place.space(), place.dtype());
  const ScoreSummary summary =
      score(model, ctx, options.score, [] { throw_if_stopped("the output is as it was, start again"); });
  const nlohmann::ordered_json line = {
      {"rows", summary.rows},
      {"errors", summary.errors},
      {"num_tokens", summary.num_tokens},
      {"seconds", summary.seconds},
  };
  // Where the results go to stdout, nothing else does.
  if (options.score.output == "-") {
    log_info("score: {}", line.dump());
  } else {
    std::cout << line.dump() << std::endl;
  }
}

}  // namespace

void add_score(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("score", description);
  command->footer(examples);
  command->add_option("--model", options->model, "a weights folder, a checkpoint, or a run (its latest)")
      ->type_name("DIR")
      ->required();
  command->add_option("--input", options->score.input, "JSON lines; - for stdin")->type_name("FILE")->required();
  command->add_option("--output", options->score.output, "JSON lines, replaced; - for stdout")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--mode", options->mode,
                   "which way of decoding gives the likelihoods; recgen: the context is the prompt")
      ->type_name("hiergen|recgen")
      ->capture_default_str();
  command
      ->add_option("--logits", options->score.logits,
                   "an HDF5 file, replaced: the logits of row i's continuation as /logits/i [tokens, vocabulary]")
      ->type_name("FILE");
  command
      ->add_option("--numerics", options->numerics,
                   "deterministic: a row's score does not depend on other rows; tuned: faster")
      ->type_name("deterministic|tuned")
      ->capture_default_str();
  add_place_options(*command, options->place);
  command->callback([options] { run_in_one_process("score", [&] { score_rows(*options); }); });
}

}  // namespace photon::cli
