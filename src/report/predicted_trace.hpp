// The simulator's timeline as a trace: what `photon plan --trace` writes, and the page of a run shows.
#pragma once

#include "partition/plan.hpp"
#include "partition/prediction.hpp"
#include "trace/trace.hpp"

namespace photon {

// A step of the replica that the prediction is of; gaps are waits.
Trace predicted_trace(const ModelConfig& config, const Plan& plan, const Prediction& prediction);

}  // namespace photon
