#include "cli/plan_decode.hpp"

#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "blueprint/parameters.hpp"
#include "decode/engine.hpp"
#include "partition/decode_plan.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace {
using Json = nlohmann::ordered_json;

DecodeAsk ask_of(const RunConfig& config, const DecodeOptions& options) {
  DecodeAsk ask;
  ask.mode = generation_mode(options.mode) == GenerationMode::recgen ? DecodeMode::recgen : DecodeMode::hiergen;
  ask.precision = config.train.precision;
  if (options.precision == "fp32") ask.precision = Precision::fp32;
  if (options.precision == "bf16") ask.precision = Precision::bf16;
  if (ask.precision == Precision::fp8) {
    throw InputError("decoding in fp8 cannot be planned", "photon decodes in fp32 or bf16", "give --precision bf16");
  }
  ask.prompt_tokens = options.prompt_tokens;
  ask.new_tokens = options.new_tokens;
  ask.batch = options.batch;
  ask.shards = options.shards;
  return ask;
}

Json memory_json(const DecodeMemory& use) {
  return {{"weights", use.weights},           {"top_cache", use.top_cache}, {"lower_caches", use.lower_caches},
          {"local_caches", use.local_caches}, {"latents", use.latents},     {"step", use.step},
          {"staging", use.staging},           {"reserve", use.reserve},     {"total", use.total()}};
}

Json seconds_json(const DecodeSeconds& busy) {
  return {{"arithmetic", busy.arithmetic},   {"weights", busy.weights}, {"caches", busy.caches},
          {"activations", busy.activations}, {"ops", busy.ops},         {"total", busy.total()}};
}

Json layout_json(const DecodeForecast& layout) {
  Json json{{"layout", layout_text(layout.layout)},
            {"groups", layout.layout.num_groups()},
            {"shards", layout.layout.shards},
            {"most_rows", layout.over_all(layout.most_rows)}};
  if (!layout.possible()) {
    json["problem"] = layout.problem;
    return json;
  }
  json["rows"] = layout.over_all(layout.rows);
  json["capacity_tokens"] = layout.capacity;
  json["step_seconds"] = layout.step_seconds;
  json["message_seconds"] = layout.message_seconds;
  json["tokens_per_second"] = layout.tokens_per_second;
  json["end_to_end_tokens_per_second"] = layout.end_to_end_tokens_per_second;
  json["bound"] = layout.bound;
  Json ranks = Json::array();
  for (const DecodeRank& rank : layout.ranks) {
    ranks.push_back({{"role", name_of(rank.role)},
                     {"rows", rank.rows},
                     {"busy_seconds", seconds_json(rank.busy)},
                     {"sent_bytes", rank.sent_bytes},
                     {"memory_bytes", memory_json(rank.memory)}});
  }
  json["ranks"] = std::move(ranks);
  return json;
}

std::string gib(std::int64_t bytes) {
  return fmt::format("{:.2f}", static_cast<double>(bytes) / 0x1p30);
}

void print_table(const RunConfig& config, const ClusterConfig& cluster, const DecodeAsk& ask, const DecodePlan& plan) {
  std::cout << fmt::format("{} parameters on {} ranks of {:g} GiB, {} in {}: {} new tokens after prompts of {}\n\n",
                           num_parameters(config.model), cluster.num_devices(), cluster.memory,
                           ask.mode == DecodeMode::recgen ? "RecGen" : "HierGen", name_of(ask.precision),
                           ask.new_tokens, ask.prompt_tokens);
  std::cout << fmt::format("{:<30}{:>9}{:>11}{:>12}{:>13}  {}\n", "layout", "batch", "most", "tokens/s", "end to end",
                           "waits for");
  for (const DecodeForecast& layout : plan.layouts) {
    if (!layout.possible()) {
      std::cout << fmt::format("{:<30}{:>9}{:>11}{:>12}{:>13}  {}\n", layout_text(layout.layout), "",
                               layout.over_all(layout.most_rows), "", "", layout.problem);
      continue;
    }
    std::cout << fmt::format("{:<30}{:>9}{:>11}{:>12.0f}{:>13.0f}  {}\n", layout_text(layout.layout),
                             layout.over_all(layout.rows), layout.over_all(layout.most_rows), layout.tokens_per_second,
                             layout.end_to_end_tokens_per_second, layout.bound);
  }
  const DecodeForecast& best = plan.best();
  std::cout << fmt::format("(batch: sequences in flight over all ranks; most: that fit, caches of {} tokens each)\n\n",
                           best.capacity);
  std::cout << fmt::format("chosen: {}, {}\n\n", layout_text(best.layout), plan.reason);
  std::cout << fmt::format("{:<8}{:>7}{:>9}{:>9}{:>8}{:>8}{:>9}{:>7}{:>13}\n", "rank", "rows", "products", "weights",
                           "caches", "activ.", "ops", "busy", "sent");
  std::string memory = fmt::format("{:<8}{:>9}{:>11}{:>8}{:>8}{:>9}{:>7}{:>9}{:>9}{:>8}\n", "rank", "weights",
                                   "top cache", "lower", "local", "latents", "step", "staging", "reserve", "total");
  for (const DecodeRank& rank : best.ranks) {
    const DecodeSeconds& busy = rank.busy;
    std::cout << fmt::format("{:<8}{:>7}{:>9.3g}{:>9.3g}{:>8.3g}{:>8.3g}{:>9.3g}{:>6.0f}%{:>13}\n", name_of(rank.role),
                             rank.rows, busy.arithmetic * 1e3, busy.weights * 1e3, busy.caches * 1e3,
                             busy.activations * 1e3, busy.ops * 1e3, 100 * busy.total() / best.step_seconds,
                             fmt::format("{:.3g} MB", rank.sent_bytes / 1e6));
    const DecodeMemory& use = rank.memory;
    memory += fmt::format("{:<8}{:>9}{:>11}{:>8}{:>8}{:>9}{:>7}{:>9}{:>9}{:>8}\n", name_of(rank.role), gib(use.weights),
                          gib(use.top_cache), gib(use.lower_caches), gib(use.local_caches), gib(use.latents),
                          gib(use.step), gib(use.staging), gib(use.reserve), gib(use.total()));
  }
  std::cout << fmt::format("(ms of the {:.3g} in which every row gets {} tokens, by what they are bound by)\n\n",
                           best.step_seconds * 1e3, config.model.group_tokens());
  std::cout << memory << "(GiB)\n" << std::flush;
}

}  // namespace

void add_decode_options(CLI::App& command, DecodeOptions& options) {
  const auto add = [&](const char* name, auto& value, const char* type, const char* help) {
    return command.add_option(name, value, help)->type_name(type);
  };
  constexpr std::int64_t most = std::int64_t{1} << 30;
  add("--mode", options.mode, "hiergen|recgen", "decode: which way of decoding")->capture_default_str();
  add("--prompt-tokens", options.prompt_tokens, "N", "decode: tokens of a prompt")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, most));
  add("--new-tokens", options.new_tokens, "N", "decode: tokens of an answer")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, most));
  add("--batch", options.batch, "N", "decode: sequences in flight over all ranks; 0: the fastest that fits")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, most));
  add("--decoder-shards", options.shards, "K",
      "decode: level-1 shards of a coarse rank; 0: replicas alone; any by default")
      ->check(CLI::Range(std::int64_t{0}, most));
  add("--precision", options.precision, "fp32|bf16",
      "decode: bf16 for GPUs, fp32 for CPUs; the configuration's by default")
      ->check(CLI::IsMember({"fp32", "bf16"}));
}

void print_decode_plan(const RunConfig& config, const ClusterConfig& cluster, const DecodeOptions& options, bool json) {
  const DecodeAsk ask = ask_of(config, options);
  const Cluster machines = make_cluster(cluster, ask.precision);
  const DecodePlan plan = plan_decode(config.model, machines, ask);
  if (!json) {
    print_table(config, cluster, ask, plan);
    return;
  }
  Json layouts = Json::array();
  for (const DecodeForecast& layout : plan.layouts) layouts.push_back(layout_json(layout));
  const Json result{{"ranks", machines.num_ranks},
                    {"mode", ask.mode == DecodeMode::recgen ? "recgen" : "hiergen"},
                    {"precision", name_of(ask.precision)},
                    {"prompt_tokens", ask.prompt_tokens},
                    {"new_tokens", ask.new_tokens},
                    {"chosen", plan.chosen},
                    {"reason", plan.reason},
                    {"layouts", layouts}};
  std::cout << result.dump(2) << std::endl;
}

}  // namespace photon::cli
