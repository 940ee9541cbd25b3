// photon drift: whether RecGen, or a window, can be trusted on a model.
#include "eval/drift.hpp"

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
#include "eval/drift_json.hpp"
#include "eval/drift_rows.hpp"
#include "eval/eval.hpp"
#include "report/svg_chart.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon::cli {
namespace {

constexpr const char* description =
    "Tells whether RecGen can be trusted on a model. By distance from the prompt, teacher-forced on the same tokens:\n"
    "how often RecGen's most likely token is that of exact HierGen, the KL divergence between the two (nats), the\n"
    "cosine between the latents, and the perplexity under each. --window N measures HierGen whose encoders below the\n"
    "top see N units as well. The texts are windows of a data file, or prompts with HierGen's own continuations.";

constexpr const char* examples =
    "Examples:\n"
    "  photon drift --model runs/first --data data/val.h5 --prompt-tokens 128 --bin 16 --plot drift.svg\n"
    "  photon drift --model runs/first --prompts prompts.jsonl --max-new-tokens 512 --temperature 1\n"
    "  photon drift --model runs/first --data data/val.h5 --window 16 --window 64 --skip-recgen";

struct Options {
  std::string model;
  std::string data;
  std::string output = "-";
  std::string plot;
  std::string numerics = "deterministic";
  PlaceOptions place;
  std::int64_t sequence_length = 0;
  std::int64_t prompt_tokens = -1;
  std::int64_t sequences = 64;
  bool skip_recgen = false;
  DriftPrompts prompts;
  DriftOptions drift;
};

using Source = std::vector<std::pair<std::string, std::string>>;

std::vector<DriftRow> rows_of_data(const Options& options, const OpenModel& model, Source& source) {
  const TokenFile file = TokenFile::open(options.data);
  check_tokenizer(file, options.data, model, options.model);
  const std::int64_t length = options.sequence_length > 0
                                  ? options.sequence_length
                                  : default_sequence_length(options.model, model.config().max_length);
  const std::int64_t prompt = options.prompt_tokens >= 0 ? options.prompt_tokens : length / 4;
  source.emplace_back("data", nlohmann::json(options.data).dump());
  source.emplace_back("sequence_length", std::to_string(length));
  source.emplace_back("prompt_tokens", std::to_string(prompt));
  return drift_rows(file, model.config(), length, prompt, options.sequences);
}

std::vector<DriftRow> rows_of_prompts(const Options& options, OpenModel& model, const Place& place, Source& source) {
  DriftPrompts prompts = options.prompts;
  prompts.memory_bytes = cache_memory(place, model.config(), false).bytes;
  source.emplace_back("prompts", nlohmann::json(prompts.file.string()).dump());
  source.emplace_back("max_new_tokens", std::to_string(prompts.defaults.max_new_tokens));
  source.emplace_back("temperature", nlohmann::json(prompts.defaults.sampling.temperature).dump());
  return drift_rows(model, place.context(), prompts, [] { throw_if_stopped("nothing is kept, start again"); });
}

ChartSeries curve(const DriftResult& result, const PathDrift& path, const std::string& name,
                  double (*value)(const DriftSums&)) {
  ChartSeries series{name, {}, {}};
  for (std::size_t i = 0; i < path.bins.size(); ++i) {
    series.x.push_back((static_cast<double>(i) + 0.5) * static_cast<double>(result.bin) - 0.5);
    series.y.push_back(value(path.bins[i]));
  }
  return series;
}

std::string plot_of(const DriftResult& result, const std::string& model) {
  const std::string x = "tokens from the prompt";
  std::vector<ChartPanel> panels{{"top-1 agreement with HierGen", x, {}, 0.0, 1.0},
                                 {"KL(HierGen || approximation), nats a token", x, {}, 0.0, {}},
                                 {"cosine of c(1), the latents that tokens are decoded from", x, {}, {}, 1.0},
                                 {"perplexity", x, {}, {}, {}}};
  panels[3].series.push_back(
      curve(result, result.exact, result.exact.name, [](const DriftSums& sums) { return sums.perplexity(); }));
  for (const PathDrift& path : result.approximations) {
    const auto add = [&](std::size_t panel, double (*value)(const DriftSums&)) {
      panels[panel].series.push_back(curve(result, path, path.name, value));
    };
    add(0, [](const DriftSums& sums) { return sums.agreement(); });
    add(1, [](const DriftSums& sums) { return sums.mean_kl(); });
    add(2, [](const DriftSums& sums) { return sums.mean_cosine(1); });
    add(3, [](const DriftSums& sums) { return sums.perplexity(); });
  }
  return svg_chart(
      fmt::format("Drift of {}: {} texts, {} tokens", model, result.num_rows, result.exact.total.num_tokens), panels);
}

void measure(Options options) {
  const StopSignal signals;
  const Place place(options.place.device, options.place.precision, parse_numerics(options.numerics));
  if (options.data.empty() == options.prompts.file.empty()) {
    throw InputError("it is not clear which texts to measure on", "one of --data and --prompts is needed",
                     "give exactly one of them");
  }
  options.drift.recgen = !options.skip_recgen;
  OpenModel model = open_model(options.model, place.space(), place.dtype());
  require_drift(model.config(), options.drift);
  Source source{{"model", nlohmann::json(options.model).dump()}};
  const std::vector<DriftRow> rows =
      options.data.empty() ? rows_of_prompts(options, model, place, source) : rows_of_data(options, model, source);
  const DriftResult result = measure_drift(*model.model, place.context(), rows, options.drift,
                                           [] { throw_if_stopped("nothing is kept, start again"); });
  const std::string json = to_json(result, source) + "\n";
  if (!options.plot.empty()) {
    const std::filesystem::path folder(options.model);
    const std::filesystem::path name = folder.has_filename() ? folder.filename() : folder.parent_path().filename();
    publish_file(options.plot, plot_of(result, name.string()), "drift");
  }
  if (options.output == "-") {
    std::cout << json << std::flush;
  } else {
    publish_file(options.output, json, "drift");
  }
}

}  // namespace

void add_drift(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("drift", description);
  command->footer(examples);
  const auto add = [&](const char* name, auto& value, const char* type, const char* help) {
    return command->add_option(name, value, help)->type_name(type);
  };
  const auto at_least = [](std::int64_t least) { return CLI::Range(least, std::int64_t{1} << 30); };
  GenerationOptions& defaults = options->prompts.defaults;
  add("--model", options->model, "DIR", "a weights folder, a checkpoint, or a run (its latest)")->required();
  add("--data", options->data, "FILE", "a data file; windows of it are the texts, their first tokens the prompts");
  add("--sequence-length", options->sequence_length, "T",
      "data: tokens of a window; 0: what the run was trained with, else 2048")
      ->capture_default_str()
      ->check(at_least(0));
  add("--prompt-tokens", options->prompt_tokens, "P",
      "data: tokens of a window that are its prompt; a quarter of it by default")
      ->check(at_least(0));
  add("--sequences", options->sequences, "N", "data: windows, evenly over the file; 0: all of it")
      ->capture_default_str()
      ->check(at_least(0));
  add("--prompts", options->prompts.file, "FILE",
      "JSON lines as generate takes them; the texts are what HierGen makes of them; - for stdin");
  add("--max-new-tokens", defaults.max_new_tokens, "N", "prompts: tokens after a prompt")->capture_default_str();
  add("--temperature", defaults.sampling.temperature, "X", "prompts: 0: greedy continuations")->capture_default_str();
  add("--top-p", defaults.sampling.top_p, "P", "prompts: keep the most likely tokens that make up P together; 1: all")
      ->capture_default_str();
  add("--seed", defaults.seed, "S", "prompts: as of generate")->capture_default_str();
  add("--window", options->drift.windows, "N",
      "also measure HierGen with windows of N units on every encoder below the top; may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--skip-recgen", options->skip_recgen, "measure the windows alone");
  add("--bin", options->drift.bin, "N", "take N distances together")->capture_default_str()->check(at_least(1));
  add("--batch-size", options->drift.batch_size, "N", "texts at once; 0: about 8192 tokens")
      ->capture_default_str()
      ->check(at_least(0));
  add("--output", options->output, "FILE", "where the JSON goes, replaced; - for stdout")->capture_default_str();
  add("--plot", options->plot, "FILE", "also draw the curves into an SVG file, replaced");
  add("--numerics", options->numerics, "deterministic|tuned",
      "deterministic: the same bits for any batch size; tuned: faster")
      ->capture_default_str();
  add_place_options(*command, options->place);
  command->callback([options] { run_in_one_process("drift", [&] { measure(*options); }); });
}

}  // namespace photon::cli
