#include "report/layout.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "blueprint/flops.hpp"
#include "config/cluster_config.hpp"
#include "partition/cluster.hpp"
#include "report/predicted_trace.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t max_tracks = 64;
constexpr double no_limit = 1e30;  // bytes/s: moving takes no time

// FLOP/s of a rank, as measured over all of them.
double measured_rate(const RunFiles& run) {
  const double compute = std::accumulate(run.ranks.compute.begin(), run.ranks.compute.end(), 0.0);
  if (run.ranks.num_steps == 0 || !(compute > 0)) return 0;
  const double step = training_flops(run.config.model, run.config.train.sequence_length) *
                      static_cast<double>(run.config.train.batch_size);
  return step * static_cast<double>(run.ranks.num_steps) / compute;
}

Cluster fitted_cluster(std::int64_t num_ranks, double flops) {
  Cluster cluster;
  cluster.num_ranks = num_ranks;
  cluster.ranks_per_node = num_ranks;
  cluster.memory_bytes = std::numeric_limits<std::int64_t>::max();
  cluster.flops = flops;
  cluster.memory_bandwidth = no_limit;
  cluster.within_node = {no_limit, 0};
  cluster.between_nodes = {no_limit, 0};
  return cluster;
}

double to_microseconds(std::int64_t ns) {
  return static_cast<double>(ns) / 1000;
}

// The interval that the page shows of a trace.
struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t step = 0;
};

// The traced step that took least from its first rank's begin to its last rank's end: the one least disturbed.
Interval quickest_step(const Trace& trace) {
  Interval best;
  for (std::int64_t step = trace.first_step; step <= trace.last_step; ++step) {
    const std::string name = fmt::format("training step {}", step);
    Interval interval{std::numeric_limits<std::int64_t>::max(), 0, step};
    for (const TraceTrack& track : trace.tracks) {
      for (const TraceSpan& span : track.spans) {
        if (span.name != name) continue;
        interval.begin = std::min(interval.begin, span.begin_ns);
        interval.end = std::max(interval.end, span.end_ns);
      }
    }
    if (interval.end <= interval.begin) continue;
    if (best.end == 0 || interval.end - interval.begin < best.end - best.begin) best = interval;
  }
  return best;
}

Interval whole(const Trace& trace) {
  Interval interval;
  for (const TraceTrack& track : trace.tracks) {
    for (const TraceSpan& span : track.spans) interval.end = std::max(interval.end, span.end_ns);
  }
  return interval;
}

}  // namespace

RunLayout layout_of(const RunFiles& run, std::int64_t num_ranks, const std::string& cluster_file) {
  RunLayout layout;
  layout.plan = make_plan(run.config, num_ranks, 0, [](std::int64_t) { return std::int64_t{0}; });
  if (!cluster_file.empty()) {
    const Cluster cluster = make_cluster(load_cluster_config(cluster_file), run.config.train.precision);
    layout.prediction = predict(run.config, cluster, layout.plan);
    layout.basis = fmt::format("on the machines of {}", cluster_file);
  } else if (const double rate = measured_rate(run); rate > 0) {
    layout.prediction = predict(run.config, fitted_cluster(num_ranks, rate), layout.plan);
    layout.basis = fmt::format(
        "on ranks of {:.3g} GFLOP/s each, the rate of this run's passes over all ranks, with messages, sums and the "
        "optimizer taking no time",
        rate * 1e-9);
  }
  return layout;
}

Json layout_json(const RunLayout& layout, const ModelConfig& model) {
  const Plan& plan = layout.plan;
  Json stages = Json::array();
  for (const StagePlan& stage : plan.layout) {
    stages.push_back({{"modules", part_names(model, stage.layers)}, {"shards", stage.shards}});
  }
  Json crossings = Json::array();
  for (const Crossing& crossing : plan.crossings) {
    crossings.push_back({{"tensor", crossing.tensor.str()}, {"from", crossing.from}, {"to", crossing.to}});
  }
  return {{"replicas", plan.replicas},
          {"stages", stages},
          {"crossings", crossings},
          {"microbatch_size", plan.microbatch_size},
          {"microbatches", plan.num_microbatches()},
          {"batch_size", plan.batch_size}};
}

Json timeline_json(const Trace& trace) {
  const Interval interval = trace.predicted ? whole(trace) : quickest_step(trace);
  Json ranks = Json::array();
  std::int64_t uncertainty = 0;
  for (const TraceTrack& track : trace.tracks) {
    uncertainty = std::max(uncertainty, track.clock_uncertainty_ns + std::abs(track.clock_drift_ns));
    if (ranks.size() >= max_tracks) continue;
    Json spans = Json::array();
    for (const TraceSpan& span : track.spans) {
      if (span.end_ns <= interval.begin || span.begin_ns >= interval.end || span.category == "step") continue;
      const std::int64_t begin = std::max(span.begin_ns, interval.begin);
      const std::int64_t end = std::min(span.end_ns, interval.end);
      spans.push_back(
          {span.name, span.category, to_microseconds(begin - interval.begin), to_microseconds(end - begin)});
    }
    ranks.push_back({{"rank", track.rank}, {"label", track.label}, {"host", track.host}, {"spans", spans}});
  }
  return {{"seconds", static_cast<double>(interval.end - interval.begin) * 1e-9},
          {"step", interval.step},
          {"uncertainty_us", to_microseconds(uncertainty)},
          {"num_ranks", trace.tracks.size()},
          {"ranks", ranks}};
}

Json prediction_json(const RunLayout& layout, const ModelConfig& model) {
  const Prediction& prediction = *layout.prediction;
  Json seconds = Json::array();
  for (const RankTimes& rank : prediction.simulation.ranks) {
    seconds.push_back({{"compute", rank.compute}, {"wait", rank.wait}, {"communication", rank.communication}});
  }
  Json json = timeline_json(predicted_trace(model, layout.plan, prediction));
  json["seconds"] = prediction.seconds;
  json["basis"] = layout.basis;
  json["first_rank"] = prediction.first_rank;
  json["bubble"] = prediction.bubble;
  json["rank_seconds"] = seconds;
  return json;
}

}  // namespace photon
