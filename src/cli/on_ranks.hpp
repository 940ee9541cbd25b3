// What the commands that run on many ranks share.
#pragma once

#include <functional>

#include "comm/world.hpp"

namespace photon::cli {

// Calls `work` on the ranks that a launcher started, or in this process alone, with logging set up. When all ranks stop
// together (Preempted) the launcher is told so by rank 0.
void run_on_ranks(const std::function<void(World&)>& work);

}  // namespace photon::cli
