// The result of `photon drift` for programs.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "eval/drift.hpp"

namespace photon {

// One JSON object (docs/decoding.md). `source`: keys that say what was measured, values as JSON, put first.
std::string to_json(const DriftResult& result, const std::vector<std::pair<std::string, std::string>>& source);

}  // namespace photon
