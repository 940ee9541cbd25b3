// How fast a communicator is: what `photon bench comm` measures.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.hpp"

namespace photon {

struct BandwidthOptions {
  std::vector<std::string> operations;  // names of measured_operations(); empty: all
  Space space = Space::host;            // device: of measured_group()
  DType dtype = DType::f32;
  std::int64_t min_bytes = 1024;
  std::int64_t max_bytes = std::int64_t{64} << 20;
  std::int64_t factor = 4;  // from one size to the next
  int rounds = 7;
};

struct Bandwidth {
  std::string operation;
  std::int64_t bytes = 0;  // S, see below; cut to what divides by the ranks
  std::int64_t repeats = 0;
  double seconds = 0;              // of one operation (chain: of one message): the median round, of each round its
                                   // slowest rank
  double algorithm_bandwidth = 0;  // bytes a second: S / seconds
  double bus_bandwidth = 0;        // bytes a second over each rank's link: the former times the operation's factor
};

// With n ranks, and S the bytes of the larger tensor of a rank:
//   operation       a rank sends    factor
//   all_reduce      2 (n-1)/n S     2 (n-1)/n
//   reduce_scatter  (n-1)/n S       (n-1)/n
//   all_gather      (n-1)/n S       (n-1)/n
//   all_to_all      (n-1)/n S       (n-1)/n
//   broadcast       S from the root 1
//   send_receive    S               1          each rank to the next one, all at once
//   chain           S               1          a message that goes round: each rank sends when it has received, so this
//                                              is what a message costs whoever waits for it
const std::vector<std::string_view>& measured_operations();

// The ranks of `all` as measure_bandwidth() needs them: device tensors with routes from each rank to the next one.
// Collective. `compute` is looked at for device memory.
Communicator measured_group(Communicator& all, Space space, Stream compute);

// Collective. Calls `report` on every rank for each operation and size, with equal figures. On one rank the last
// three are left out, and nothing travels in the others. Errors: InputError for an unknown operation.
void measure_bandwidth(Communicator& group, const BandwidthOptions& options,
                       const std::function<void(const Bandwidth&)>& report);

}  // namespace photon
