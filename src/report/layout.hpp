// A run's layout as the page shows it: which rank hosts what, and the timeline that the simulator predicts for it.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "partition/plan.hpp"
#include "partition/prediction.hpp"
#include "report/run_files.hpp"

namespace photon {

struct RunLayout {
  Plan plan;
  std::optional<Prediction> prediction;
  std::string basis;  // what the prediction rests on, in words
};

// The plan of `num_ranks` ranks, and its prediction on the machines of `cluster_file`. Without such a file, where the
// run measured its ranks, on ranks that compute as fast as these did on average and exchange messages in no time: the
// timeline that the layout alone would give. Errors: InputError when configuration and ranks make no plan.
RunLayout layout_of(const RunFiles& run, std::int64_t num_ranks, const std::string& cluster_file);

// For the page: stages with their ranks, crossings, the shape of a step.
nlohmann::ordered_json layout_json(const RunLayout& layout, const ModelConfig& model);
// Of each predicted rank its seconds, and the timeline.
nlohmann::ordered_json prediction_json(const RunLayout& layout, const ModelConfig& model);
// Tracks of a trace for the page: {"seconds", "uncertainty_us", "step", "ranks": [{rank, label, host, spans}]}; a span
// is [name, category, begin, length], in microseconds. Of a measured trace, the quickest step; of more than 64 ranks
// the first ones.
nlohmann::ordered_json timeline_json(const Trace& trace);

}  // namespace photon
