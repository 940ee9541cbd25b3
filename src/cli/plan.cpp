// photon plan: what a layout would do on a cluster.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "blueprint/parameters.hpp"
#include "cli/commands.hpp"
#include "cli/plan_decode.hpp"
#include "config/cluster_config.hpp"
#include "config/run_config.hpp"
#include "partition/cluster.hpp"
#include "partition/prediction.hpp"
#include "partition/search.hpp"
#include "partition/timeline.hpp"
#include "report/predicted_trace.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "train/memory_plan.hpp"

namespace photon::cli {
namespace {
using Json = nlohmann::ordered_json;

constexpr const char* description =
    "Says what a layout would do on a cluster, without running anything: what each rank hosts, computes, sends and\n"
    "holds, and the predicted time of a training step, from the very programs that ranks would carry out. The layout\n"
    "is the one of the configuration's section `parallel`, on as many ranks as the cluster has devices; --search "
    "finds\n"
    "the fastest one instead. Layouts that do not fit are refused, with the nearest that does. --decode plans "
    "decoding:\n"
    "replicas of the whole model, or coarse ranks with decoder shards, whatever gives most tokens a second.";

constexpr const char* examples =
    "Examples:\n"
    "  photon plan --config configs/train/quickstart-pipeline.yaml --cluster configs/cluster/four-h100.yaml\n"
    "  photon plan --config configs/train/photon-600m.yaml --cluster configs/cluster/eight-h100.yaml --search --trace "
    "t.json\n"
    "  photon plan --config configs/train/photon-600m.yaml --cluster configs/cluster/four-h100.yaml --decode "
    "--prompt-tokens 2048";

struct Options {
  std::string config;
  std::string cluster;
  std::vector<std::string> overrides;
  std::string trace;
  bool search = false;
  bool json = false;
  bool decode = false;
  double memory_limit = 0;  // GiB; 0: none
  DecodeOptions decoding;
};

double step_flops(const Plan& plan, const RankCost& cost) {
  return (cost.forward().flops + cost.backward().flops) * static_cast<double>(plan.num_microbatches());
}

Json memory_json(const MemoryUse& use) {
  return {{"weights", use.weights},         {"gradients", use.gradients}, {"optimizer", use.optimizer},
          {"activations", use.activations}, {"staging", use.staging},     {"total", use.total()}};
}

Json program_json(const Program& program) {
  Json instructions = Json::array();
  for (const Instruction& i : program) {
    Json json{{"op", name_of(i.op)}};
    if (i.microbatch >= 0) json["microbatch"] = i.microbatch;
    if (!i.part.empty()) json["part"] = i.part;
    if (i.tensor.kind != Boundary::Kind::none) json["tensor"] = i.tensor.str();
    if (i.peer >= 0) json["peer"] = i.peer;
    instructions.push_back(std::move(json));
  }
  return instructions;
}

// What a run folder takes. Of all that is saved one more exists while it is replaced.
struct DiskUse {
  std::int64_t checkpoint = 0;  // weights and two moments in fp32
  std::int64_t weights = 0;     // the weights folder
  std::int64_t most = 0;
};
DiskUse disk_use(const RunConfig& config) {
  const TrainConfig& train = config.train;
  const std::int64_t saves =
      train.checkpoint_every == 0 ? 1 : (train.steps + train.checkpoint_every - 1) / train.checkpoint_every;
  const std::int64_t kept = train.keep_checkpoints == 0 ? saves : std::min(saves, train.keep_checkpoints + 1);
  DiskUse disk;
  disk.weights = 4 * num_parameters(config.model);
  disk.checkpoint = 3 * disk.weights;
  disk.most = kept * disk.checkpoint + (saves > 1 ? 2 : 1) * disk.weights;
  return disk;
}

std::string kept_text(const TrainConfig& train) {
  return train.keep_checkpoints == 0 ? "all kept" : fmt::format("the newest {} kept", train.keep_checkpoints);
}

Json describe(const RunConfig& config, const Plan& plan, const Prediction& prediction) {
  const DiskUse disk = disk_use(config);
  Json stages = Json::array();
  for (const StagePlan& stage : plan.layout) {
    stages.push_back({{"modules", part_names(config.model, stage.layers)}, {"shards", stage.shards}});
  }
  Json ranks = Json::array();
  for (std::int64_t rank = 0; rank < plan.ranks_per_replica(); ++rank) {
    const auto i = static_cast<std::size_t>(rank);
    const RankCost& cost = prediction.costs[i];
    const RankTimes& times = prediction.simulation.ranks[i];
    ranks.push_back({{"rank", prediction.first_rank + rank},
                     {"stage", plan.role(rank).stage},
                     {"shard", plan.role(rank).shard},
                     {"flops", step_flops(plan, cost)},
                     {"sent_bytes", prediction.sent_bytes[i]},
                     {"compute_seconds", times.compute},
                     {"wait_seconds", times.wait},
                     {"communication_seconds", times.communication},
                     {"parameters", cost.num_parameters},
                     {"memory_bytes", memory_json(cost.memory)},
                     {"program", program_json(prediction.programs[i])}});
  }
  return {{"ranks", plan.replicas * plan.ranks_per_replica()},
          {"replicas", plan.replicas},
          {"stages", stages},
          {"microbatch_size", plan.microbatch_size},
          {"microbatches", plan.num_microbatches()},
          {"split_backward", plan.passes.split_backward},
          {"recompute", name_of(plan.passes.recompute ? Recompute::layers : Recompute::none)},
          {"step_seconds", prediction.seconds},
          {"tokens_per_second", prediction.tokens_per_second},
          {"bubble", prediction.bubble},
          {"utilization", prediction.utilization},
          {"memory_bytes", prediction.memory_bytes},
          {"disk_bytes", {{"checkpoint", disk.checkpoint}, {"weights", disk.weights}, {"most", disk.most}}},
          {"replica_ranks", ranks}};
}

std::string amount(double value, const char* unit) {
  static constexpr const char* prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
  int power = 0;
  for (; value >= 1000 && power < 6; ++power) value /= 1000;
  return fmt::format("{:.3g} {}{}", value, prefixes[power], unit);
}

std::string milliseconds(double seconds) {
  return seconds < 1 ? fmt::format("{:.3g}", seconds * 1e3) : fmt::format("{:.0f}", seconds * 1e3);
}

// One line for each stage: the rank of it that computes longest.
void print_stages(const RunConfig& config, const Plan& plan, const Prediction& prediction) {
  std::cout << fmt::format("{:<6}{:>6}  {:<10}{:>10}{:>9}{:>9}{:>10}  {}\n", "stage", "ranks", "FLOPs", "compute",
                           "sums", "waiting", "sent", "modules");
  std::string memory = fmt::format("{:<6}{:>11}{:>11}{:>11}{:>13}{:>11}{:>11}\n", "stage", "weights", "gradients",
                                   "optimizer", "activations", "staging", "total");
  std::int64_t first = 0;
  for (std::int64_t s = 0; s < plan.stages; ++s) {
    const StagePlan& stage = plan.layout[static_cast<std::size_t>(s)];
    const auto slowest = static_cast<std::size_t>(
        std::max_element(prediction.simulation.ranks.begin() + first,
                         prediction.simulation.ranks.begin() + first + stage.shards,
                         [](const RankTimes& a, const RankTimes& b) { return a.compute < b.compute; }) -
        prediction.simulation.ranks.begin());
    first += stage.shards;
    const RankTimes& times = prediction.simulation.ranks[slowest];
    const MemoryUse& use = prediction.costs[slowest].memory;
    std::cout << fmt::format("{:<6}{:>6}  {:<10}{:>10}{:>9}{:>9}{:>10}  {}\n", s + 1, stage.shards,
                             amount(step_flops(plan, prediction.costs[slowest]), ""), milliseconds(times.compute),
                             milliseconds(times.communication), milliseconds(times.wait),
                             amount(prediction.sent_bytes[slowest], "B"),
                             fmt::format("{}", fmt::join(part_names(config.model, stage.layers), " ")));
    memory += fmt::format("{:<6}{:>11}{:>11}{:>11}{:>13}{:>11}{:>11}\n", s + 1, bytes_text(use.weights),
                          bytes_text(use.gradients), bytes_text(use.optimizer), bytes_text(use.activations),
                          bytes_text(use.staging), bytes_text(use.total()));
  }
  std::cout << "(of a step, in ms; of each stage the rank that computes longest)\n\n" << memory << "(of a rank)\n\n";
}

void print_table(const RunConfig& config, const Cluster& cluster, const Plan& plan, const Prediction& prediction) {
  const DiskUse disk = disk_use(config);
  std::cout << fmt::format(
      "{} parameters on {} ranks: {} replica{} of {}\n"
      "a step is {} sequences of {} tokens: {} microbatch{} of {} on each replica\n{}{}\n",
      num_parameters(config.model), plan.replicas * plan.ranks_per_replica(), plan.replicas,
      plan.replicas == 1 ? "" : "s", plan.ranks_per_replica(), plan.batch_size, config.train.sequence_length,
      plan.num_microbatches(), plan.num_microbatches() == 1 ? "" : "es", plan.microbatch_size,
      plan.passes.recompute ? "activations are computed again in the backward (parallel.recompute=layers)\n" : "",
      plan.passes.split_backward
          ? "gradients are passed on before those of weights are computed (parallel.split_backward=on)\n"
          : "");
  print_stages(config, plan, prediction);
  std::cout << fmt::format(
      "predicted: {} ms a step, {} tokens/s; {:.1f} % of the ranks' time is not compute; {:.1f} % of their FLOP/s are "
      "used\n"
      "memory: {} of {} on the fullest rank\n"
      "disk: {} a checkpoint and {} for model/; with {}, {} while one is saved\n\n",
      milliseconds(prediction.seconds), amount(prediction.tokens_per_second, ""), 100 * prediction.bubble,
      100 * prediction.utilization, bytes_text(prediction.memory_bytes), bytes_text(cluster.memory_bytes),
      bytes_text(disk.checkpoint), bytes_text(disk.weights), kept_text(config.train), bytes_text(disk.most));
  std::cout << timeline_text(plan, prediction, 96, 4) << std::flush;
}

ClusterConfig load_cluster(const Options& options) {
  ClusterConfig cluster = load_cluster_config(options.cluster);
  if (options.memory_limit > 0) cluster.memory = std::min(cluster.memory, options.memory_limit);
  return cluster;
}

void plan(const Options& options) {
  RunConfig config = load_run_config(options.config, options.overrides);
  if (options.decode) {
    if (options.search || !options.trace.empty())
      throw InputError("--search and --trace are of training", "--decode was given, which tries every layout by itself",
                       "leave them out");
    print_decode_plan(config, load_cluster(options), options.decoding, options.json);
    return;
  }
  const Cluster cluster = make_cluster(load_cluster(options), config.train.precision);
  if (options.search) config.parallel = fastest_layout(config, cluster);
  const Plan found = plan_given(config, cluster);
  const Prediction prediction = predict(config, cluster, found);
  if (!options.trace.empty())
    publish_file(options.trace, trace_json(predicted_trace(config.model, found, prediction)), "trace");
  if (options.json) {
    Json json = describe(config, found, prediction);
    if (options.search) json["settings"] = settings_text(config.parallel);
    std::cout << json.dump(2) << std::endl;
    return;
  }
  if (options.search) std::cout << fmt::format("fastest layout: {}\n\n", settings_text(config.parallel));
  print_table(config, cluster, found, prediction);
}

}  // namespace

void add_plan(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plan", description);
  command->footer(examples);
  command->add_option("--config", options->config, "a YAML file; see photon help config")
      ->type_name("FILE")
      ->required();
  command->add_option("--cluster", options->cluster, "the machines, as in configs/cluster")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--set", options->overrides,
                   "sets one key of the configuration, e.g. parallel.stages=2; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_flag("--search", options->search,
                    "look for the fastest layout that fits instead of taking that of the configuration");
  command->add_flag(
      "--json", options->json,
      "print JSON: of every rank of a replica bytes, seconds, FLOPs and its program; peers are counted from "
      "the replica's first rank");
  command
      ->add_option("--trace", options->trace,
                   "also write the predicted step of a replica as a trace file, for ui.perfetto.dev")
      ->type_name("FILE");
  command->add_flag("--decode", options->decode, "plan decoding instead of training");
  command
      ->add_option("--memory-limit", options->memory_limit,
                   "as if each device had no more memory than this, as `generate --memory-limit`; 0: the cluster's")
      ->type_name("GIB")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  add_decode_options(*command, options->decoding);
  command->callback([options] { plan(*options); });
}

}  // namespace photon::cli
