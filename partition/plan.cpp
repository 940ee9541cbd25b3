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

std::string chain_of(const ModelConfig& model) {
  std::string chain;
  for (std::int64_t m = 0; m < num_modules(model); ++m) chain += (m == 0 ? "" : ", ") + module_name(model, m);
  return chain;
}

// Where stages 2, 3, ... begin, by parallel.cut.
std::vector<std::int64_t> named_cut(const RunConfig& config) {
  std::vector<std::int64_t> starts;
  const std::string& cut = config.parallel.cut;
  const auto refuse = [&](const std::string& why) {
    return InputError(fmt::format("parallel.cut is '{}'", cut), why,
                      fmt::format("name the modules that begin stages 2 to {}, in the order of the chain {}",
                                  config.parallel.stages, chain_of(config.model)));
  };
  for (std::size_t begin = 0; begin <= cut.size();) {
    const std::size_t end = std::min(cut.find(',', begin), cut.size());
    std::string name = cut.substr(begin, end - begin);
    std::erase(name, ' ');
    const auto module = find_module(config.model, name);
    if (!module) throw refuse(fmt::format("the model has no module '{}'", name));
    if (*module <= (starts.empty() ? 0 : starts.back())) throw refuse(fmt::format("'{}' begins no later stage", name));
    starts.push_back(*module);
    begin = end + 1;
  }
  if (static_cast<std::int64_t>(starts.size()) != config.parallel.stages - 1) {
    throw refuse(fmt::format("parallel.stages is {}, so {} begin a stage", config.parallel.stages,
                             plural(config.parallel.stages - 1, "module")));
  }
  return starts;
}

// Tries every cut of modules begin .. end-1 into the given number of stages; the chain is short.
struct BalancedCut {
  const std::vector<double>& flops;
  std::int64_t stages;
  double shards;
  std::int64_t first_decoder;
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::int64_t> best_starts{};
  std::vector<std::int64_t> starts{};

  void search(std::int64_t begin, double most) {
    const auto total = static_cast<std::int64_t>(flops.size());
    const std::int64_t left = stages - static_cast<std::int64_t>(starts.size());  // stages from `begin` on
    double work = 0;
    if (left == 1) {
      if (shards > 1 && begin < first_decoder) return;
      for (std::int64_t m = begin; m < total; ++m) work += flops[static_cast<std::size_t>(m)];
      const double found = std::max(most, work / shards);
      if (found < best) {
        best = found;
        best_starts = starts;
      }
      return;
    }
    for (std::int64_t end = begin + 1; end <= total - (left - 1); ++end) {
      work += flops[static_cast<std::size_t>(end - 1)];
      starts.push_back(end);
      search(end, std::max(most, work));
      starts.pop_back();
    }
  }
};

void check_parallel(const RunConfig& config) {
  const ParallelConfig& parallel = config.parallel;
  if (parallel.stages == 1 && parallel.shards == 1) {
    if (parallel.cut.empty()) return;
    throw InputError(fmt::format("parallel.cut is '{}'", parallel.cut), "parallel.stages is 1: there is nothing to cut",
                     "remove it or set parallel.stages higher");
  }
  if (config.model.type == ModelType::vanilla) {
    throw InputError("this layout is not supported",
                     fmt::format("parallel.stages is {} and parallel.shards is {}; a vanilla model has one module and "
                                 "trains as data-parallel replicas only",
                                 parallel.stages, parallel.shards),
                     "set parallel.stages and parallel.shards to 1");
  }
  if (parallel.stages == 1) {
    throw InputError(fmt::format("parallel.shards is {} and parallel.stages is 1", parallel.shards),
                     "shards share the groups of decoders, and a single stage holds the encoders too",
                     "set parallel.stages to 2 or more, or parallel.shards to 1");
  }
  const std::int64_t most = parallel.shards > 1 ? config.model.num_levels() + 1 : num_modules(config.model);
  if (parallel.stages > num_modules(config.model)) {
    throw InputError(fmt::format("parallel.stages is {}", parallel.stages),
                     fmt::format("the model has {} modules: {}", num_modules(config.model), chain_of(config.model)),
                     fmt::format("set it to at most {}", std::max(most, num_modules(config.model))));
  }
}

}  // namespace

std::string Boundary::str() const {
  const char* name = "none";
  if (kind == Kind::encoder_state) name = "X";
  if (kind == Kind::conditioning) name = "c";
  if (kind == Kind::reconstruction) name = "Y";
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

std::int64_t Plan::max_in_flight(std::int64_t stage, std::int64_t num_microbatches) const {
  return std::min(stages - stage, num_microbatches);
}

std::vector<std::string> module_names(const ModelConfig& config, const StagePlan& stage) {
  std::vector<std::string> names;
  for (std::int64_t m = stage.modules.begin; m < stage.modules.end; ++m) names.push_back(module_name(config, m));
  return names;
}

std::string hosted_text(const ModelConfig& config, const Plan& plan, std::int64_t rank) {
  const StagePlan& stage = plan.stage_of(rank);
  const RankRole& role = plan.role(rank);
  std::string text = fmt::format("{}", fmt::join(module_names(config, stage), " "));
  if (stage.shards > 1) text += fmt::format(", shard {} of {}", role.shard + 1, stage.shards);
  if (plan.replicas > 1) text += fmt::format(", replica {} of {}", role.replica + 1, plan.replicas);
  return text;
}

std::int64_t ranks_per_replica(const ParallelConfig& parallel) {
  return parallel.stages - 1 + parallel.shards;
}

std::vector<StagePlan> cut_stages(const RunConfig& config) {
  check_parallel(config);
  const ParallelConfig& parallel = config.parallel;
  const ModuleRange all = all_modules(config.model);
  if (parallel.stages == 1) return {{all, 1}};
  const std::int64_t first_decoder = config.model.num_levels();
  std::vector<std::int64_t> starts;
  if (parallel.cut.empty()) {
    const std::vector<double> flops = module_flops(config.model, config.train.sequence_length);
    BalancedCut search{flops, parallel.stages, static_cast<double>(parallel.shards), first_decoder};
    search.search(0, 0);
    starts = search.best_starts;
  } else {
    starts = named_cut(config);
  }
  if (parallel.shards > 1 && starts.back() < first_decoder) {
    throw InputError(
        fmt::format("parallel.shards is {}", parallel.shards),
        fmt::format("the last stage begins with {}, and shards share the groups of decoders only",
                    module_name(config.model, starts.back())),
        fmt::format("let parallel.cut end with {} or a later module", module_name(config.model, first_decoder)));
  }
  std::vector<StagePlan> layout;
  starts.push_back(all.end);
  std::int64_t begin = 0;
  for (const std::int64_t end : starts) {
    layout.push_back({{begin, end}, 1});
    begin = end;
  }
  layout.back().shards = parallel.shards;
  return layout;
}

std::vector<Crossing> crossings_of(const ModelConfig& config, const std::vector<StagePlan>& layout) {
  std::vector<Crossing> crossings;
  const auto stage_with = [&](std::int64_t module) {
    std::int64_t stage = 0;
    while (!layout[static_cast<std::size_t>(stage)].modules.contains(module)) ++stage;
    return stage;
  };
  const auto cross = [&](Boundary::Kind kind, std::int64_t level, std::int64_t from, std::set<std::int64_t> readers) {
    std::set<std::int64_t> stages;
    for (const std::int64_t reader : readers) stages.insert(stage_with(reader));
    for (const std::int64_t to : stages) {
      if (to != stage_with(from)) crossings.push_back({{kind, level, false}, stage_with(from), to});
    }
  };
  if (layout.size() == 1) return crossings;
  const std::int64_t num_levels = config.num_levels();
  for (std::int64_t l = 1; l < num_levels; ++l) {
    cross(Boundary::Kind::encoder_state, l, encoder_module(l), {encoder_module(l + 1), decoder_module(config, l + 1)});
  }
  cross(Boundary::Kind::conditioning, num_levels, encoder_module(num_levels), {decoder_module(config, num_levels)});
  for (std::int64_t l = num_levels - 1; l >= 1; --l) {
    cross(Boundary::Kind::reconstruction, l, decoder_module(config, l + 1), {decoder_module(config, l)});
  }
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
  plan.crossings = crossings_of(config.model, plan.layout);
  plan.stages = parallel.stages;
  plan.shards = parallel.shards;
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
    const std::int64_t span = config.model.group_tokens();
    const std::int64_t groups = (config.train.sequence_length + span - 1) / span;
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
