// Which ranks of a plan send messages to which: what communication between GPUs sets up before the first step.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"
#include "partition/plan.hpp"

namespace photon {

// Each pair once, by sender, in the order of its program. Messages of a route are received in the order in which they
// are sent. Errors: ContractError where two programs disagree about that.
std::vector<Route> message_routes(const Plan& plan);

}  // namespace photon
