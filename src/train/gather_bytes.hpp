// Bytes of unequal lengths, of every rank, on rank 0.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"

namespace photon {

// Collective. On rank 0 the bytes of every rank in rank order, elsewhere empty.
std::vector<std::vector<std::uint8_t>> gather_bytes(Communicator& all, const std::vector<std::uint8_t>& mine);

}  // namespace photon
