// photon bench decode: decoding speed on random prompts.
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "cli/bench.hpp"
#include "cli/one_process.hpp"
#include "cli/place_options.hpp"
#include "decode/engine.hpp"
#include "decode/generate.hpp"
#include "decode/open_model.hpp"
#include "kernels/matrix_library.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon::cli {
namespace {

struct Case {
  std::string mode = "hiergen";
  std::int64_t batch = 64;
  std::int64_t prompt = 128;
  std::int64_t new_tokens = 128;
};

struct Options {
  std::string preset;
  std::string model;
  std::string numerics = "tuned";
  PlaceOptions place;
  Case one;
  std::vector<std::string> cases;
  std::int64_t look_ahead = 0;
  bool no_graphs = false;
};

// "hiergen:256:128:256": mode, batch, prompt, new tokens.
Case parse_case(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ':');) parts.push_back(part);
  const auto number = [&](std::size_t i) {
    std::int64_t value = -1;
    const auto [end, error] = std::from_chars(parts[i].data(), parts[i].data() + parts[i].size(), value);
    return error == std::errc() && end == parts[i].data() + parts[i].size() ? value : -1;
  };
  Case result;
  if (parts.size() == 4) result = {parts[0], number(1), number(2), number(3)};
  if (parts.size() != 4 || result.batch < 1 || result.prompt < 0 || result.new_tokens < 1) {
    throw InputError(fmt::format("'{}' is no case", text), "a case is MODE:BATCH:PROMPT:NEW_TOKENS",
                     "write for instance hiergen:256:128:256");
  }
  return result;
}

class Discard : public ResultSink {
 public:
  void result(const Result&) override {}
  void error(const RowError& error) override { throw Error("a row failed", error.message, ""); }
};

// Rows that all run to their full length.
class RandomPrompts {
 public:
  RandomPrompts(const Case& c, std::int64_t vocabulary) : case_(c), vocabulary_(vocabulary) {}
  std::optional<Row> operator()() {
    if (row_ == case_.batch) return std::nullopt;
    Request request;
    request.id = std::to_string(row_);
    request.line = row_;
    request.options.max_new_tokens = case_.new_tokens;
    for (std::int64_t i = 0; i < case_.prompt; ++i) {
      request.prompt.push_back(
          static_cast<std::int32_t>(random_bits(1, static_cast<std::uint64_t>(row_), static_cast<std::uint64_t>(i)) %
                                    static_cast<std::uint64_t>(vocabulary_)));
    }
    ++row_;
    return request;
  }

 private:
  Case case_;
  std::int64_t vocabulary_;
  std::int64_t row_ = 0;
};

void measure(const OpenModel& model, const Place& place, const Options& options, const Case& c) {
  const GenerationMode mode = generation_mode(c.mode);
  if (mode == GenerationMode::recgen) require_recgen(model.config());
  EngineOptions engine_options;
  engine_options.mode = mode;
  engine_options.max_batch = c.batch;
  engine_options.memory_bytes = place.space() == Space::host
                                    ? 2 * default_cache_memory()
                                    : cache_memory(place, model.config(), mode == GenerationMode::recgen);
  engine_options.look_ahead = options.look_ahead;
  engine_options.graphs = !options.no_graphs;
  Engine engine(decoder_source(*model.model, place.context()), nullptr, -1, engine_options);
  Discard discard;
  const auto run = [&](std::int64_t rounds) {
    engine.run(RandomPrompts(c, model.config().vocab_size), discard,
               [rounds](const EngineStatistics&) mutable { return rounds-- != 0; });
    return engine.statistics();
  };
  // Touches all memory, starts the threads, chooses algorithms, records the steps.
  const EngineStatistics before = run(place.space() == Space::host ? 2 : 5);
  if (before.num_slots < c.batch) {
    throw Error(fmt::format("the caches of {} sequences do not fit", c.batch),
                fmt::format("the memory that is free holds {}", before.num_slots), "choose a smaller --batch");
  }
  const auto start = std::chrono::steady_clock::now();
  const EngineStatistics after = run(-1);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double decode_seconds = after.decode_seconds - before.decode_seconds;
  const double prefill_seconds = after.prefill_seconds - before.prefill_seconds;
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
      {"tokens_per_second", new_tokens / decode_seconds},
      {"end_to_end_tokens_per_second", new_tokens / seconds},
      {"prompt_tokens_per_second", static_cast<double>(c.batch * c.prompt) / std::max(prefill_seconds, 1e-9)},
      {"decode_seconds", decode_seconds},
      {"prefill_seconds", prefill_seconds},
      {"seconds", seconds},
      {"matrix_library", place.space() == Space::host ? matrix_library() : "cuBLASLt"},
      {"cache_bytes", after.cache_bytes},
  };
  std::cout << line.dump() << std::endl;
}

void measure_all(const Options& options) {
  if (options.preset.empty() == options.model.empty()) {
    throw InputError("bench decode measures one model", "it takes either --preset or --model", "give one of them");
  }
  std::vector<Case> cases;
  for (const std::string& text : options.cases) cases.push_back(parse_case(text));
  if (cases.empty()) cases.push_back(options.one);
  for (const Case& c : cases) (void)generation_mode(c.mode);
  const Place place(options.place.device, options.place.precision, parse_numerics(options.numerics));
  const OpenModel model = options.preset.empty() ? open_model(options.model, place.space(), place.dtype())
                                                 : fresh_model(preset(options.preset), 1, place.space(), place.dtype());
  for (const Case& c : cases) measure(model, place, options, c);
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
  number("--look-ahead", options->look_ahead, "recgen: groups the coarse stream runs ahead; 0: chosen from the batch",
         0);
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
  add_place_options(*command, options->place);
  command->callback([options] { run_in_one_process("bench decode", [&] { measure_all(*options); }); });
}

}  // namespace photon::cli
