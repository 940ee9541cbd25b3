// Ranks that hold the same weights must hold the same bits: gradients are summed in one order everywhere. Where they do
// not, memory or a link has failed silently, or photon has a defect.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "model/parameters.hpp"
#include "partition/plan.hpp"

namespace photon {

// Ranks whose checksum is not that of most ranks of their group (of two that differ, or as many on either side: of all
// in the group). checksums[i] and groups[i] are rank i's.
std::vector<std::int64_t> differing_ranks(const std::vector<std::uint64_t>& checksums,
                                          const std::vector<std::int64_t>& groups);

// Collective: compares the fp32 weights over the ranks of each stage. `host` is this rank's. Errors, on every rank:
// Error that names the ranks that differ and their hosts.
void check_replicas(const Context& ctx, Communicator& all, const Plan& plan, const Parameters& weights,
                    std::int64_t step, const std::string& host);

}  // namespace photon
