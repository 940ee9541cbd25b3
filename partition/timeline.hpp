// A replica's step as text: a line a rank, time from left to right.
#pragma once

#include <cstdint>
#include <string>

#include "partition/plan.hpp"
#include "partition/prediction.hpp"

namespace photon {

// `width` columns for the step. Of each stage the first `max_shards` ranks are shown.
std::string timeline_text(const Plan& plan, const Prediction& prediction, std::int64_t width, std::int64_t max_shards);

}  // namespace photon
