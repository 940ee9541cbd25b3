// How far the clocks of ranks are apart.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"

namespace photon {

// This process's monotonic clock (std::chrono::steady_clock), nanoseconds since a moment of its host's own.
std::int64_t monotonic_ns();

struct ClockOffset {
  std::int64_t offset_ns = 0;       // the rank's clock minus that of rank 0
  std::int64_t uncertainty_ns = 0;  // the offset is off by at most this
};

// Collective, by messages back and forth between rank 0 and each rank in turn: the answer of the quickest of `rounds`
// was given at some moment within its round trip, so the middle is off by half the trip at most. On rank 0 an offset a
// rank, elsewhere empty.
std::vector<ClockOffset> measure_clock_offsets(Communicator& all, int rounds = 32);

}  // namespace photon
