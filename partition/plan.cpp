#include "partition/plan.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "blueprint/flops.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

std::string plural(std::int64_t count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

// "encoder1.0-2, decoder1.0-3"
std::string chain_of(const ModelConfig& model) {
  std::string chain;
  for (std::int64_t m = 0; m < num_modules(model); ++m) {
    const std::int64_t last = module_stack(model, m).layers - 1;
    chain += fmt::format("{}{}.0{}", m == 0 ? "" : ", ", module_name(model, m),
                         last > 0 ? fmt::format("-{}", last) : std::string());
  }
  return chain;
}

// Where stages 2, 3, ... begin, by parallel.cut.
std::vector<std::int64_t> named_cut(const RunConfig& config) {
  std::vector<std::int64_t> starts;
  const std::string& cut = config.parallel.cut;
  const auto refuse = [&](const std::string& why) {
    return InputError(fmt::format("parallel.cut is '{}'", cut), why,
                      fmt::format("name the layers that begin stages 2 to {}, in the order of the chain {}",
                                  config.parallel.stages, chain_of(config.model)));
  };
  for (std::size_t begin = 0; begin <= cut.size();) {
    const std::size_t end = std::min(cut.find(',', begin), cut.size());
    std::string name = cut.substr(begin, end - begin);
    std::erase(name, ' ');
    const auto layer = find_layer(config.model, name);
    if (!layer) throw refuse(fmt::format("the model has no layer '{}'", name));
    if (*layer <= (starts.empty() ? 0 : starts.back())) throw refuse(fmt::format("'{}' begins no later stage", name));
    starts.push_back(*layer);
    begin = end + 1;
  }
  if (static_cast<std::int64_t>(starts.size()) != config.parallel.stages - 1) {
    throw refuse(fmt::format("parallel.stages is {}, so {} begin a stage", config.parallel.stages,
                             plural(config.parallel.stages - 1, "layer")));
  }
  return starts;
}

void check_parallel(const RunConfig& config) {
  const ParallelConfig& parallel = config.parallel;
  if (parallel.split_backward == SplitBackward::on) {
    const char* const why = parallel.stages == 1 ? "parallel.stages is 1: no stage waits for another's gradients"
                            : parallel.recompute == Recompute::layers
                                ? "parallel.recompute is layers, and what is computed again is not kept for later"
                                : nullptr;
    if (why != nullptr) throw InputError("parallel.split_backward is on", why, "set it to auto or off");
  }
  if (parallel.stages == 1 && parallel.shards == 1) {
    if (parallel.cut.empty()) return;
    throw InputError(fmt::format("parallel.cut is '{}'", parallel.cut), "parallel.stages is 1: there is nothing to cut",
                     "remove it or set parallel.stages higher");
  }
  if (config.model.type == ModelType::vanilla && parallel.shards > 1) {
    throw InputError(fmt::format("parallel.shards is {}", parallel.shards),
                     "shards share the groups of decoders, and a vanilla model has none",
                     "set it to 1: more parallel.stages or replicas take more ranks");
  }
  if (parallel.stages == 1) {
    throw InputError(fmt::format("parallel.shards is {} and parallel.stages is 1", parallel.shards),
                     "shards share the groups of decoders, and a single stage holds the encoders too",
                     "set parallel.stages to 2 or more, or parallel.shards to 1");
  }
  // A sharded stage has decoders only, so all encoders and up to one layer less than all lie before it.
  const std::int64_t layers = all_layers(config.model).end;
  if (parallel.stages > layers) {
    throw InputError(fmt::format("parallel.stages is {}", parallel.stages),
                     fmt::format("the model has {} layers: {}", layers, chain_of(config.model)),
                     fmt::format("set it to at most {}", layers));
  }
}

std::vector<HostedModule> hosted_modules(const ModelConfig& model, const LayerRange& layers) {
  std::vector<HostedModule> modules;
  const std::vector<std::string> names = part_names(model, layers);
  for (std::int64_t m = 0; m < num_modules(model); ++m) {
    if (!part_of(model, layers, m).empty()) modules.push_back({m, names[modules.size()]});
  }
  return modules;
}

// Empty where one stage alone holds it.
std::vector<std::int64_t> embedding_stages_of(const ModelConfig& model, const std::vector<StagePlan>& layout) {
  std::vector<std::int64_t> stages;
  if (layout.size() == 1) return stages;
  for (std::size_t s = 0; s < layout.size(); ++s) {
    for (const ParameterSpec& spec : hosted_parameters(model, layout[s].layers)) {
      if (spec.name == embedding_name(model)) stages.push_back(static_cast<std::int64_t>(s));
    }
  }
  return stages.size() > 1 ? stages : std::vector<std::int64_t>();
}

}  // namespace

std::string Boundary::str() const {
  const char* name = "none";
  if (kind == Kind::encoder_state) name = "X";
  if (kind == Kind::conditioning) name = "c";
  if (kind == Kind::reconstruction) name = "Y";
  if (kind == Kind::stream) name = "h";
  return fmt::format("{}{}({})", gradient ? "d" : "", name, level);
}

std::int64_t Plan::first_sequence(std::int64_t rank, std::int64_t microbatch) const {
  PHOTON_EXPECT(microbatch >= 0 && microbatch < num_microbatches(), "microbatch {} of {}", microbatch,
                num_microbatches());
  return role(rank).replica * sequences_per_replica() + microbatch * microbatch_size;
}

const RankRole& Plan::role(std::int64_t rank) const {
  PHOTON_EXPECT(rank >= 0 && rank < static_cast<std::int64_t>(ranks.size()), "rank {} of a plan for {}", rank,
                ranks.size());
  return ranks[static_cast<std::size_t>(rank)];
}

const StagePlan& Plan::stage_of(std::int64_t rank) const {
  return layout[static_cast<std::size_t>(role(rank).stage)];
}

std::int64_t Plan::rank_of(const RankRole& role) const {
  return role.replica * ranks_per_replica() + role.stage + role.shard;
}

GroupRange Plan::groups(std::int64_t rank, std::int64_t sequences, std::int64_t groups_per_sequence) const {
  const std::int64_t count = stage_of(rank).shards;
  const std::int64_t shard = role(rank).shard;
  const std::int64_t unit = whole_sequences ? groups_per_sequence : 1;
  const std::int64_t units = sequences * groups_per_sequence / unit;
  const std::int64_t begin = units * shard / count;
  return {begin * unit, (units * (shard + 1) / count - begin) * unit};
}

std::int64_t Plan::holders(std::int64_t stage) const {
  return num_ranks / ranks_per_replica() * layout[static_cast<std::size_t>(stage)].shards;
}

bool Plan::holds_embedding(std::int64_t stage) const {
  return std::find(embedding_stages.begin(), embedding_stages.end(), stage) != embedding_stages.end();
}

std::int64_t Plan::embedding_holders() const {
  std::int64_t holders = 0;
  for (const std::int64_t stage : embedding_stages) holders += layout[static_cast<std::size_t>(stage)].shards;
  return holders;
}

std::int64_t Plan::forwards_ahead(std::int64_t stage, std::int64_t num_microbatches) const {
  return std::min(stages - stage, num_microbatches) - 1;
}

std::int64_t Plan::weights_behind(std::int64_t stage, std::int64_t num_microbatches) const {
  return passes.split_backward ? std::min(stage, num_microbatches - 1) : 0;
}

std::int64_t Plan::max_in_flight(std::int64_t stage, std::int64_t num_microbatches) const {
  return std::min(forwards_ahead(stage, num_microbatches) + weights_behind(stage, num_microbatches) + 1,
                  num_microbatches);
}

std::string hosted_text(const ModelConfig& config, const Plan& plan, std::int64_t rank) {
  const StagePlan& stage = plan.stage_of(rank);
  const RankRole& role = plan.role(rank);
  std::string text = fmt::format("{}", fmt::join(part_names(config, stage.layers), " "));
  if (stage.shards > 1) text += fmt::format(", shard {} of {}", role.shard + 1, stage.shards);
  if (plan.replicas > 1) text += fmt::format(", replica {} of {}", role.replica + 1, plan.replicas);
  return text;
}

std::int64_t ranks_per_replica(const ParallelConfig& parallel) {
  return parallel.stages - 1 + parallel.shards;
}

std::optional<std::vector<std::int64_t>> balanced_cut(const RunConfig& config, std::int64_t stages, std::int64_t shards,
                                                      CutPoints points) {
  const ModelConfig& model = config.model;
  const std::vector<double> flops = layer_flops(model, config.train.sequence_length);
  std::vector<std::int64_t> candidates;  // where a stage may begin, and the end of the chain
  for (std::int64_t layer = 0; layer < all_layers(model).end; ++layer) {
    if (points == CutPoints::layers || layer == module_layers(model, module_of(model, layer)).begin)
      candidates.push_back(layer);
  }
  candidates.push_back(all_layers(model).end);
  const std::size_t num_points = candidates.size();
  std::vector<double> before(flops.size() + 1, 0);
  for (std::size_t i = 0; i < flops.size(); ++i) before[i + 1] = before[i] + flops[i];
  const auto work = [&](std::size_t from, std::size_t to) {
    return before[static_cast<std::size_t>(candidates[to])] - before[static_cast<std::size_t>(candidates[from])];
  };
  // most[s][p]: of the ways to end stage s at point p, the least that the busiest rank up to there can have to do.
  constexpr double never = std::numeric_limits<double>::infinity();
  const auto s_count = static_cast<std::size_t>(stages);
  std::vector<std::vector<double>> most(s_count + 1, std::vector<double>(num_points, never));
  std::vector<std::vector<std::size_t>> previous(s_count + 1, std::vector<std::size_t>(num_points, 0));
  most[0][0] = 0;
  for (std::size_t s = 1; s <= s_count; ++s) {
    const bool last = s == s_count;
    for (std::size_t p = 1; p < num_points; ++p) {
      for (std::size_t q = 0; q < p; ++q) {
        if (last && shards > 1 && candidates[q] < first_decoder_layer(model)) continue;
        const double found = std::max(most[s - 1][q], work(q, p) / static_cast<double>(last ? shards : 1));
        if (found >= most[s][p]) continue;
        most[s][p] = found;
        previous[s][p] = q;
      }
    }
  }
  if (most[s_count].back() == never) return std::nullopt;
  std::vector<std::int64_t> starts;
  std::size_t point = num_points - 1;
  for (std::size_t s = s_count; s > 1; --s) {
    point = previous[s][point];
    starts.push_back(candidates[point]);
  }
  std::reverse(starts.begin(), starts.end());
  return starts;
}

std::vector<StagePlan> cut_stages(const RunConfig& config) {
  check_parallel(config);
  const ParallelConfig& parallel = config.parallel;
  const LayerRange all = all_layers(config.model);
  if (parallel.stages == 1) return {{all, 1, hosted_modules(config.model, all)}};
  const std::int64_t first_decoder = first_decoder_layer(config.model);
  std::vector<std::int64_t> starts;
  if (parallel.cut.empty()) {
    auto found = balanced_cut(config, parallel.stages, parallel.shards, CutPoints::modules);
    if (!found) found = balanced_cut(config, parallel.stages, parallel.shards, CutPoints::layers);
    PHOTON_EXPECT(found.has_value(), "no cut of {} layers into {} stages", all.end, parallel.stages);
    starts = *found;
  } else {
    starts = named_cut(config);
  }
  if (parallel.shards > 1 && starts.back() < first_decoder) {
    throw InputError(
        fmt::format("parallel.shards is {}", parallel.shards),
        fmt::format("the last stage begins with {}, and shards share the groups of decoders only",
                    layer_name(config.model, starts.back())),
        fmt::format("let parallel.cut end with {} or a later layer", layer_name(config.model, first_decoder)));
  }
  std::vector<StagePlan> layout;
  starts.push_back(all.end);
  std::int64_t begin = 0;
  for (const std::int64_t end : starts) {
    layout.push_back({{begin, end}, 1, {}});
    begin = end;
  }
  layout.back().shards = parallel.shards;
  for (StagePlan& stage : layout) stage.modules = hosted_modules(config.model, stage.layers);
  return layout;
}

std::vector<Crossing> crossings_of(const RunConfig& config, const std::vector<StagePlan>& layout) {
  const ModelConfig& model = config.model;
  std::vector<Crossing> crossings;
  const auto stage_with = [&](std::int64_t layer) {
    std::int64_t stage = 0;
    while (!layout[static_cast<std::size_t>(stage)].layers.contains(layer)) ++stage;
    return stage;
  };
  const auto first_of = [&](std::int64_t module) { return stage_with(module_layers(model, module).begin); };
  const auto last_of = [&](std::int64_t module) { return stage_with(module_layers(model, module).end - 1); };
  // To the stages that read it, of which `measures` only measures a distance to it.
  const auto cross = [&](Boundary::Kind kind, std::int64_t level, std::int64_t from, std::set<std::int64_t> readers,
                         std::optional<std::int64_t> measures = std::nullopt) {
    const bool alone = measures && !readers.contains(*measures);
    if (measures) readers.insert(*measures);
    for (const std::int64_t to : readers) {
      if (to == from) continue;
      const bool returns = !(alone && to == *measures && config.train.rec_stop_gradient);
      crossings.push_back({{kind, level, false}, from, to, returns});
    }
  };
  const auto cross_inside = [&] {
    for (std::size_t s = 1; s < layout.size(); ++s) {
      const std::int64_t layer = layout[s].layers.begin;
      if (layer == module_layers(model, module_of(model, layer)).begin) continue;
      cross(Boundary::Kind::stream, layer, static_cast<std::int64_t>(s) - 1, {static_cast<std::int64_t>(s)});
    }
  };
  if (layout.size() == 1) return crossings;
  const std::int64_t num_levels = model.num_levels();
  for (std::int64_t l = 1; l < num_levels; ++l) {
    const std::int64_t above = decoder_module(model, l + 1);
    cross(Boundary::Kind::encoder_state, l, last_of(encoder_module(l)),
          {first_of(encoder_module(l + 1)), first_of(above)}, last_of(above));
  }
  if (num_levels > 0) {
    cross(Boundary::Kind::conditioning, num_levels, last_of(encoder_module(num_levels)),
          {first_of(decoder_module(model, num_levels))});
  }
  for (std::int64_t l = num_levels - 1; l >= 1; --l) {
    cross(Boundary::Kind::reconstruction, l, last_of(decoder_module(model, l + 1)),
          {first_of(decoder_module(model, l))});
  }
  cross_inside();
  return crossings;
}

std::int64_t choose_microbatch_size(std::int64_t sequences, std::int64_t most, std::int64_t budget_bytes,
                                    const ArenaBytes& arena_bytes) {
  for (std::int64_t size = std::min(sequences, most); size > 1; --size) {
    if (sequences % size == 0 && arena_bytes(size) <= budget_bytes) return size;
  }
  return 1;
}

Plan make_plan(const RunConfig& config, std::int64_t num_ranks, std::int64_t budget_bytes,
               const ArenaBytes& arena_bytes) {
  PHOTON_EXPECT(num_ranks >= 1, "a plan for {} ranks", num_ranks);
  const ParallelConfig& parallel = config.parallel;
  Plan plan;
  plan.layout = cut_stages(config);
  plan.crossings = crossings_of(config, plan.layout);
  plan.embedding_stages = embedding_stages_of(config.model, plan.layout);
  plan.stages = parallel.stages;
  plan.shards = parallel.shards;
  plan.zero = parallel.zero == 1;
  plan.passes = pass_options(config);
  plan.whole_sequences = config.model.lookback > 0;
  const std::int64_t each = plan.ranks_per_replica();
  const std::string replica = each == 1 ? std::string("every rank is one replica")
                                        : fmt::format("a replica of parallel.stages {} and parallel.shards {} is {}",
                                                      plan.stages, plan.shards, plural(each, "rank"));
  if (num_ranks % each != 0) {
    throw InputError(fmt::format("the job has {}", plural(num_ranks, "rank")), replica,
                     fmt::format("start {}{} ranks, or change the layout",
                                 num_ranks > each ? fmt::format("{} or ", num_ranks / each * each) : "",
                                 (num_ranks / each + 1) * each));
  }
  plan.num_ranks = num_ranks;
  plan.replicas = num_ranks / each;
  if (parallel.data != 0 && parallel.data != plan.replicas) {
    throw InputError(
        fmt::format("parallel.data is {}, but the job has {}", parallel.data, plural(num_ranks, "rank")), replica,
        fmt::format("start {} ranks, or leave parallel.data at 0 to take as many as there are", parallel.data * each));
  }
  plan.batch_size = config.train.batch_size;
  if (plan.batch_size % plan.replicas != 0) {
    const std::int64_t below = plan.batch_size / plan.replicas * plan.replicas;
    throw InputError(fmt::format("train.batch_size {} cannot be split over {} {}", plan.batch_size, plan.replicas,
                                 each == 1 ? "ranks" : "replicas"),
                     fmt::format("{} sequences would be left over", plan.batch_size - below),
                     fmt::format("set train.batch_size to {}{}, or start another number of ranks",
                                 below > 0 ? fmt::format("{} or ", below) : "", below + plan.replicas));
  }
  const std::int64_t sequences = plan.sequences_per_replica();
  plan.microbatch_size = parallel.microbatch_size;
  if (plan.microbatch_size == 0) {
    const std::int64_t most = plan.stages == 1 ? sequences : std::max<std::int64_t>(1, sequences / (2 * plan.stages));
    plan.microbatch_size = choose_microbatch_size(sequences, most, budget_bytes, arena_bytes);
  } else if (sequences % plan.microbatch_size != 0) {
    throw InputError(
        fmt::format("parallel.microbatch_size {} does not divide the {} sequences a replica takes of a step",
                    plan.microbatch_size, sequences),
        fmt::format("train.batch_size {} over {} {}", plan.batch_size, plan.replicas, each == 1 ? "ranks" : "replicas"),
        fmt::format("set it to a divisor of {}, or to 0 to have one chosen", sequences));
  }
  if (plan.shards > 1) {
    const std::int64_t groups = config.model.num_groups(config.train.sequence_length);
    const std::int64_t parts = plan.microbatch_size * (plan.whole_sequences ? 1 : groups);
    if (parts < plan.shards) {
      throw InputError(fmt::format("parallel.shards is {}, and a microbatch has {}", plan.shards,
                                   plural(parts, plan.whole_sequences ? "sequence" : "group")),
                       fmt::format("parallel.microbatch_size is {}{}", plan.microbatch_size,
                                   plan.whole_sequences ? " and model.lookback keeps sequences whole" : ""),
                       fmt::format("set parallel.shards to at most {}, or parallel.microbatch_size higher", parts));
    }
  }
  for (std::int64_t r = 0; r < plan.replicas; ++r) {
    for (std::int64_t s = 0; s < plan.stages; ++s) {
      for (std::int64_t k = 0; k < plan.layout[static_cast<std::size_t>(s)].shards; ++k) {
        plan.ranks.push_back({.replica = r, .stage = s, .shard = k});
      }
    }
  }
  return plan;
}

}  // namespace photon
