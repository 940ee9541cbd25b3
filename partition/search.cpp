#include "partition/search.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "partition/cost.hpp"
#include "partition/prediction.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

struct Candidate {
  ParallelConfig parallel;
  std::int64_t memory_bytes = 0;
  double busiest_seconds = 0;  // no step is shorter
};

RunConfig with(const RunConfig& config, const ParallelConfig& parallel) {
  RunConfig changed = config;
  changed.parallel = parallel;
  return changed;
}

std::int64_t never(std::int64_t) {
  return 0;
}

std::string cut_text(const ModelConfig& model, const std::vector<std::int64_t>& starts) {
  std::vector<std::string> names;
  for (const std::int64_t layer : starts) names.push_back(layer_name(model, layer));
  return fmt::format("{}", fmt::join(names, ","));
}

std::vector<std::int64_t> starts_of(const std::vector<StagePlan>& layout) {
  std::vector<std::int64_t> starts;
  for (std::size_t s = 1; s < layout.size(); ++s) starts.push_back(layout[s].layers.begin);
  return starts;
}

// The cuts of the chain into the given number of stages that are tried, as parallel.cut: all those between modules, and
// the balanced one between layers.
std::vector<std::string> cuts(const RunConfig& config, std::int64_t stages, std::int64_t shards) {
  const ModelConfig& model = config.model;
  std::vector<std::string> result;
  const auto extend = [&](auto& self, std::vector<std::int64_t> starts, std::int64_t module) -> void {
    const std::int64_t missing = stages - 1 - static_cast<std::int64_t>(starts.size());
    if (missing == 0) {
      if (shards == 1 || starts.back() >= first_decoder_layer(model)) result.push_back(cut_text(model, starts));
      return;
    }
    for (std::int64_t m = module; m + missing <= num_modules(model); ++m) {
      std::vector<std::int64_t> longer = starts;
      longer.push_back(module_layers(model, m).begin);
      self(self, std::move(longer), m + 1);
    }
  };
  if (stages == 1) return {""};
  extend(extend, {}, 1);
  if (const auto starts = balanced_cut(config, stages, shards, CutPoints::layers)) {
    const std::string cut = cut_text(model, *starts);
    if (std::find(result.begin(), result.end(), cut) == result.end()) result.push_back(cut);
  }
  return result;
}

// What parallel.recompute allows, in the order in which it is preferred.
std::vector<Recompute> recomputations(const ParallelConfig& parallel) {
  if (parallel.recompute != Recompute::automatic) return {parallel.recompute};
  if (parallel.split_backward == SplitBackward::on) return {Recompute::none};
  return {Recompute::none, Recompute::layers};
}

// Adds every microbatch size of one cut, recomputing where it must.
void add_sizes(const RunConfig& config, const Cluster& cluster, const ParallelConfig& parallel,
               std::vector<Candidate>& candidates) {
  const std::int64_t sequences = config.train.batch_size / (cluster.num_ranks / ranks_per_replica(parallel));
  for (std::int64_t size = 1; size <= sequences; ++size) {
    if (sequences % size != 0) continue;
    RunConfig sized = with(config, parallel);
    sized.parallel.microbatch_size = size;
    bool fits = false;
    for (const Recompute recompute : recomputations(sized.parallel)) {
      sized.parallel.recompute = recompute;
      try {
        const Plan plan = make_plan(sized, cluster.num_ranks, 0, never);
        const CostModel cost(sized, cluster, plan);
        candidates.push_back({sized.parallel, cost.memory_bytes(), cost.busiest_seconds()});
      } catch (const InputError&) {
        fits = true;
        break;  // fewer groups than shards, which larger ones have
      }
      fits = candidates.back().memory_bytes <= cluster.memory_bytes;
      if (fits) break;  // keeping everything is faster
    }
    if (!fits) return;  // larger ones need more
  }
}

// Every layout that divides, with moments divided as `zero` says. Replicas are as many as the ranks allow.
std::vector<Candidate> all_layouts(const RunConfig& config, const Cluster& cluster, std::int64_t zero) {
  std::vector<Candidate> candidates;
  for (std::int64_t each = 1; each <= cluster.num_ranks; ++each) {
    if (cluster.num_ranks % each != 0 || config.train.batch_size % (cluster.num_ranks / each) != 0) continue;
    for (std::int64_t stages = 1; stages <= std::min(each, all_layers(config.model).end); ++stages) {
      const std::int64_t shards = each - stages + 1;
      if (shards > 1 && (stages == 1 || config.model.type == ModelType::vanilla)) continue;
      for (const std::string& cut : cuts(config, stages, shards)) {
        ParallelConfig parallel;
        parallel.stages = stages;
        parallel.shards = shards;
        parallel.cut = cut;
        parallel.zero = zero;
        parallel.recompute = config.parallel.recompute;
        if (stages > 1 && config.parallel.recompute != Recompute::layers)
          parallel.split_backward = config.parallel.split_backward;
        add_sizes(config, cluster, parallel, candidates);
      }
    }
  }
  return candidates;
}

std::string gib(std::int64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / 0x1p30);
}

// Stages and shards before cuts, cuts before microbatch sizes; the larger microbatch of equals.
auto distance(const Candidate& candidate, const ParallelConfig& given) {
  const ParallelConfig& p = candidate.parallel;
  const auto apart = [](std::int64_t a, std::int64_t b) { return a > b ? a - b : b - a; };
  return std::tuple(apart(ranks_per_replica(p), ranks_per_replica(given)), apart(p.stages, given.stages),
                    p.cut == given.cut ? 0 : 1, apart(p.zero, given.zero), candidate.busiest_seconds,
                    -p.microbatch_size);
}

std::int64_t least_memory(const std::vector<Candidate>& candidates) {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (const Candidate& c : candidates) least = std::min(least, c.memory_bytes);
  return least;
}

void keep_fitting(std::vector<Candidate>& candidates, const Cluster& cluster) {
  std::erase_if(candidates, [&](const Candidate& c) { return c.memory_bytes > cluster.memory_bytes; });
}

std::string none_fits(const Cluster& cluster, std::int64_t least) {
  return fmt::format("no layout on {} ranks fits, the smallest needs {} a rank", cluster.num_ranks, gib(least));
}

constexpr const char* make_it_fit =
    "take more ranks, devices with more memory or a smaller model, or shorten train.sequence_length";

[[noreturn]] void refuse(const RunConfig& config, const Cluster& cluster, const ParallelConfig& given,
                         const MemoryUse& use) {
  std::vector<Candidate> candidates = all_layouts(config, cluster, given.zero);
  if (given.zero == 0) {
    for (Candidate& candidate : all_layouts(config, cluster, 1)) candidates.push_back(std::move(candidate));
  }
  const std::int64_t least = least_memory(candidates);
  keep_fitting(candidates, cluster);
  const auto nearest =
      std::min_element(candidates.begin(), candidates.end(),
                       [&](const Candidate& a, const Candidate& b) { return distance(a, given) < distance(b, given); });
  throw InputError(
      fmt::format("this layout needs {} on a rank that has {}", gib(use.total()), gib(cluster.memory_bytes)),
      fmt::format("weights {}, gradients {}, optimizer {}, activations {}, staging {}", gib(use.weights),
                  gib(use.gradients), gib(use.optimizer), gib(use.activations), gib(use.staging)),
      nearest != candidates.end() ? fmt::format("the nearest layout that fits needs {}: {}", gib(nearest->memory_bytes),
                                                settings_text(nearest->parallel))
                                  : fmt::format("{}: {}", none_fits(cluster, least), make_it_fit));
}

}  // namespace

bool splitting_pays(const RunConfig& config, const Cluster& cluster, const Plan& plan) {
  if (plan.stages == 1 || plan.passes.recompute || plan.passes.split_backward) return false;
  Plan split = plan;
  split.passes.split_backward = true;
  if (CostModel(config, cluster, split).memory_bytes() > cluster.memory_bytes) return false;
  constexpr double least_gain = 0.01;
  return predict(config, cluster, split).seconds < (1 - least_gain) * predict(config, cluster, plan).seconds;
}

std::string settings_text(const ParallelConfig& parallel) {
  std::string text = fmt::format("--set parallel.stages={} --set parallel.shards={}", parallel.stages, parallel.shards);
  if (!parallel.cut.empty()) text += fmt::format(" --set parallel.cut={}", parallel.cut);
  if (parallel.zero > 0) text += fmt::format(" --set parallel.zero={}", parallel.zero);
  if (parallel.recompute == Recompute::layers) text += " --set parallel.recompute=layers";
  if (parallel.split_backward == SplitBackward::on) text += " --set parallel.split_backward=on";
  if (parallel.microbatch_size > 0) text += fmt::format(" --set parallel.microbatch_size={}", parallel.microbatch_size);
  return text;
}

Plan plan_given(const RunConfig& config, const Cluster& cluster) {
  MemoryUse use;
  ParallelConfig given = config.parallel;
  for (const Recompute recompute : recomputations(config.parallel)) {
    RunConfig chosen = config;
    chosen.parallel.recompute = recompute;
    const Plan unsized = make_plan(chosen, cluster.num_ranks, 0, never);
    const auto needed = [&](std::int64_t sequences) {
      Plan sized = unsized;
      sized.microbatch_size = sequences;
      return CostModel(chosen, cluster, sized).memory_bytes();
    };
    Plan plan = make_plan(chosen, cluster.num_ranks, cluster.memory_bytes, needed);
    const CostModel cost(chosen, cluster, plan);
    if (cost.memory_bytes() <= cluster.memory_bytes) {
      if (config.parallel.split_backward == SplitBackward::automatic && splitting_pays(chosen, cluster, plan)) {
        plan.passes.split_backward = true;
      }
      return plan;
    }
    given.cut = cut_text(config.model, starts_of(plan.layout));
    use = cost.fullest().memory;
  }
  refuse(config, cluster, given, use);
}

ParallelConfig fastest_layout(const RunConfig& config, const Cluster& cluster) {
  std::vector<Candidate> candidates = all_layouts(config, cluster, config.parallel.zero);
  if (candidates.empty()) {
    throw InputError(
        fmt::format("no layout of {} ranks divides train.batch_size {}", cluster.num_ranks, config.train.batch_size),
        "every replica takes equally many sequences of a step",
        "set train.batch_size to a multiple of the ranks, or plan other ranks");
  }
  const std::int64_t least = least_memory(candidates);
  keep_fitting(candidates, cluster);
  if (candidates.empty()) {
    throw InputError(none_fits(cluster, least), fmt::format("a rank has {}", gib(cluster.memory_bytes)), make_it_fit);
  }
  // By the least they could take, so that most need not be timed.
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.busiest_seconds < b.busiest_seconds; });
  std::optional<ParallelConfig> best;
  double best_seconds = std::numeric_limits<double>::infinity();
  for (const Candidate& candidate : candidates) {
    if (candidate.busiest_seconds >= best_seconds) break;
    RunConfig changed = with(config, candidate.parallel);
    Plan plan = make_plan(changed, cluster.num_ranks, 0, never);
    if (changed.parallel.split_backward == SplitBackward::automatic && splitting_pays(changed, cluster, plan)) {
      changed.parallel.split_backward = SplitBackward::on;
      plan.passes.split_backward = true;
    }
    const double seconds = predict(changed, cluster, plan).seconds;
    if (seconds >= best_seconds) continue;
    best_seconds = seconds;
    best = changed.parallel;
  }
  return *best;
}

}  // namespace photon
