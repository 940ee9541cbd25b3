// photon bench decode: decoding speed on random prompts.
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "cli/bench.hpp"
#include "cli/decode_measure.hpp"
#include "cli/one_process.hpp"
#include "cli/place_options.hpp"
#include "decode/engine.hpp"
#include "kernels/matrix_library.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace {

struct Options {
  std::string preset;
  std::string model;
  std::string numerics = "tuned";
  PlaceOptions place;
  DecodeCase one;
  std::vector<std::string> cases;
  DecodeRun run;
  bool no_graphs = false;
  bool table = false;
};

void print_case(const OpenModel& model, const Place& place, const Options& options, const DecodeCase& c) {
  const DecodeMeasured m = measure_decode(model, place, c, options.run);
  const auto new_tokens = static_cast<double>(c.batch * c.new_tokens);
  const nlohmann::ordered_json line = {
      {"bench", "decode"},
      {"model", options.preset.empty() ? options.model : options.preset},
      {"parameters", num_parameters(model.config())},
      {"device", place.device_name()},
      {"precision", place.precision_name()},
      {"numerics", options.numerics},
      {"mode", c.mode},
      {"batch", c.batch},
      {"prompt", c.prompt},
      {"new_tokens", c.new_tokens},
      {"threads", omp_get_max_threads()},
      {"tokens_per_second", new_tokens / m.decode_seconds},
      {"end_to_end_tokens_per_second", new_tokens / m.seconds},
      {"prompt_tokens_per_second", static_cast<double>(c.batch * c.prompt) / std::max(m.prefill_seconds, 1e-9)},
      {"decode_seconds", m.decode_seconds},
      {"prefill_seconds", m.prefill_seconds},
      {"other_seconds", m.seconds - m.decode_seconds - m.prefill_seconds},
      {"seconds", m.seconds},
      {"matrix_library", place.space() == Space::host ? matrix_library() : "cuBLASLt"},
      {"cache_bytes", m.cache_bytes},
  };
  std::cout << line.dump() << std::endl;
}

void measure_all(Options options) {
  if (options.preset.empty() == options.model.empty()) {
    throw InputError("bench decode measures one model", "it takes either --preset or --model", "give one of them");
  }
  options.run.graphs = !options.no_graphs;
  std::vector<DecodeCase> cases;
  for (const std::string& text : options.cases) cases.push_back(parse_decode_case(text));
  if (cases.empty()) cases.push_back(options.one);
  for (const DecodeCase& c : cases) (void)generation_mode(c.mode);
  const Place place(options.place.device, options.place.precision, parse_numerics(options.numerics));
  if (options.table) return print_decode_table(options.preset, place);
  const OpenModel model = options.preset.empty() ? open_model(options.model, place.space(), place.dtype())
                                                 : fresh_model(preset(options.preset), 1, place.space(), place.dtype());
  for (const DecodeCase& c : cases) print_case(model, place, options, c);
}

}  // namespace

void add_bench_decode(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("decode",
                           "Decodes random prompts greedily, all rows at once and to their full length, and prints one "
                           "JSON line a case: new tokens a\n"
                           "second of decoding alone (tokens_per_second, prompts encoded before) and of everything.");
  command->footer("Example:\n  photon bench decode --preset photon-60m --batch 64 --prompt 128 --new-tokens 128");
  auto* name =
      command->add_option("--preset", options->preset, "a preset's name, with fresh weights")->type_name("NAME");
  command->add_option("--model", options->model, "a weights folder, a checkpoint, or a run")
      ->type_name("DIR")
      ->excludes(name);
  const auto number = [&](const char* option, std::int64_t& value, const char* help, std::int64_t least) {
    command->add_option(option, value, help)
        ->type_name("N")
        ->capture_default_str()
        ->check(CLI::Range(least, std::int64_t{1} << 30));
  };
  number("--batch", options->one.batch, "sequences", 1);
  number("--prompt", options->one.prompt, "tokens of every prompt", 0);
  number("--new-tokens", options->one.new_tokens, "tokens decoded after it", 1);
  number("--look-ahead", options->run.look_ahead,
         "recgen: groups the coarse stream runs ahead; 0: chosen from the batch", 0);
  command->add_option("--mode", options->one.mode, "the way of decoding")
      ->type_name("hiergen|recgen")
      ->capture_default_str();
  command->add_option("--numerics", options->numerics, "deterministic, or the fastest")
      ->type_name("deterministic|tuned")
      ->capture_default_str();
  command
      ->add_option(
          "--case", options->cases,
          "instead of --mode, --batch, --prompt and --new-tokens: MODE:BATCH:PROMPT:NEW_TOKENS; may be repeated")
      ->type_name("CASE")
      ->allow_extra_args(false);
  command->add_flag("--no-graphs", options->no_graphs, "on a GPU: queue every op of every step anew");
  command->add_flag("--table", options->table,
                    "instead of a case: tokens a second for a GiB of cache of the preset in HierGen and RecGen, of its "
                    "windowed form,\nand of vanilla and block models of its size, each at its best batch");
  add_place_options(*command, options->place);
  command->callback([options] { run_in_one_process("bench decode", [&] { measure_all(*options); }); });
}

}  // namespace photon::cli
