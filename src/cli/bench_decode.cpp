// photon bench decode: decoding speed on random prompts.
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "blueprint/parameters.hpp"
#include "cli/bench.hpp"
#include "cli/count_option.hpp"
#include "cli/decode_measure.hpp"
#include "cli/decoder_shards_option.hpp"
#include "cli/place_options.hpp"
#include "comm/share_cores.hpp"
#include "decode/decode_group.hpp"
#include "kernels/matrix_library.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

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
  int shards = 0;
  bool no_graphs = false;
  bool table = false;
};

// On ranks that take prompts; each decodes a batch of its own, and rank 0 prints what all do together.
void print_case(DecodeGroup& group, const Place& place, const Options& options, const DecodeCase& c) {
  DecodeRun how = options.run;
  how.before_timing = [&] { group.peers().barrier(); };
  const ModelConfig& config = group.model().config();
  const DecodeMeasured m = measure_decode(config, group.source(), place, c, how);
  const auto slowest = [&](double seconds) { return group.peers().all_reduce(seconds, Reduction::max); };
  const double seconds = slowest(m.seconds);
  const double decode_seconds = slowest(m.decode_seconds);
  const double prefill_seconds = slowest(m.prefill_seconds);
  const std::int64_t rows = group.peers().all_reduce(m.batch, Reduction::sum);
  const std::int64_t cache_bytes = group.peers().all_reduce(m.cache_bytes, Reduction::sum);
  const std::int64_t memory_bytes = group.peers().all_reduce(m.memory_bytes, Reduction::max);
  if (group.peers().rank() != 0) return;
  const auto new_tokens = static_cast<double>(rows * c.new_tokens);
  const nlohmann::ordered_json line = {
      {"bench", "decode"},
      {"model", options.preset.empty() ? options.model : options.preset},
      {"parameters", num_parameters(config)},
      {"device", place.device_name()},
      {"precision", place.precision_name()},
      {"numerics", options.numerics},
      {"ranks", group.layout().num_ranks},
      {"shards", group.layout().shards},
      {"mode", c.mode},
      {"batch", rows},
      {"prompt", c.prompt},
      {"new_tokens", c.new_tokens},
      {"threads", omp_get_max_threads()},
      {"tokens_per_second", new_tokens / decode_seconds},
      {"end_to_end_tokens_per_second", new_tokens / seconds},
      {"prompt_tokens_per_second", static_cast<double>(rows * c.prompt) / std::max(prefill_seconds, 1e-9)},
      {"decode_seconds", decode_seconds},
      {"prefill_seconds", prefill_seconds},
      {"other_seconds", seconds - decode_seconds - prefill_seconds},
      {"seconds", seconds},
      {"matrix_library", place.space() == Space::host ? matrix_library() : "cuBLASLt"},
      {"cache_bytes", cache_bytes},
      {"memory_bytes", memory_bytes},
  };
  std::cout << line.dump() << std::endl;
}

void measure_all(World& world, Options options) {
  if (options.preset.empty() == options.model.empty()) {
    throw InputError("bench decode measures one model", "it takes either --preset or --model", "give one of them");
  }
  options.run.graphs = !options.no_graphs;
  options.run.shards = options.shards > 0;
  options.run.ranks_per_host = world.local_size();
  share_cores(world.local_size());
  std::vector<DecodeCase> cases;
  for (const std::string& text : options.cases) cases.push_back(parse_decode_case(text));
  if (cases.empty()) cases.push_back(options.one);
  for (const DecodeCase& c : cases) (void)generation_mode(c.mode);
  const DecodeLayout layout = decode_layout(world.size(), options.shards);
  const bool gpus = world.size() > 1 && space_of_device(options.place.device) == Space::device;
  Place place(options.place.device, options.place.precision, parse_numerics(options.numerics),
              gpus ? world.use_gpu() : 0);
  place.limit_memory(memory_limit_bytes(options.place.memory_limit));
  if (options.table) {
    if (world.size() > 1) throw InputError("--table on several ranks", "it is of one device", "start one process");
    return print_decode_table(options.preset, place);
  }
  OpenModel model = options.preset.empty()
                        ? open_model_on(layout, world.rank(), options.model, place.space(), place.dtype())
                        : fresh_model_on(layout, world.rank(), preset(options.preset), 1, place.space(), place.dtype());
  DecodeGroup group(world, layout, std::move(model), place.context());
  if (!group.takes_prompts()) return group.serve(nullptr);
  for (const DecodeCase& c : cases) print_case(group, place, options, c);
  group.finish(false);
}

}  // namespace

void add_bench_decode(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("decode",
                           "Decodes random prompts greedily, all rows at once and to their full length, and prints one "
                           "JSON line a case: new tokens a\n"
                           "second of decoding alone (tokens_per_second, prompts encoded before) and of everything. On "
                           "several ranks every\n"
                           "group of ranks decodes such a batch.");
  command->footer("Example:\n  photon bench decode --preset photon-60m --batch 64 --prompt 128 --new-tokens 128");
  auto* name =
      command->add_option("--preset", options->preset, "a preset's name, with fresh weights")->type_name("NAME");
  command->add_option("--model", options->model, "a weights folder, a checkpoint, or a run")
      ->type_name("DIR")
      ->excludes(name);
  const auto number = [&](const char* option, std::int64_t& value, const char* help, std::int64_t least) {
    add_count_option(*command, option, value, help, least);
  };
  number("--batch", options->one.batch, "sequences; 0: as many as are admitted", 0);
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
  add_decoder_shards_option(*command, options->shards);
  command->add_flag("--no-graphs", options->no_graphs, "on a GPU: queue every op of every step anew");
  command->add_flag("--table", options->table,
                    "instead of a case: tokens a second for a GiB of cache of the preset in HierGen and RecGen, of its "
                    "windowed form,\nand of vanilla and block models of its size, each at its best batch");
  add_place_options(*command, options->place);
  add_memory_limit_option(*command, options->place.memory_limit);
  command->callback([options] {
    World world;
    init_logging(world.rank(), world.size());
    world.run([&] { measure_all(world, *options); });
  });
}

}  // namespace photon::cli
