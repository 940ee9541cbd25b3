// Sizes at which messages are cut and algorithms change. Internal to this room; tests lower them, on all ranks alike.
#pragma once

#include <cstdint>

namespace photon::comm {

struct Limits {
  // One MPI message at most: its counts are ints.
  std::int64_t message_bytes = std::int64_t{1} << 30;
  // A reduction exchanges and adds this much of its data at a time: what bounds its scratch memory.
  std::int64_t piece_bytes = std::int64_t{16} << 20;
  // Up to this many bytes of all ranks together, a reduction is one exchange of everything, and a broadcast is sent to
  // everyone by its root; above, work and traffic are divided among the ranks, in two exchanges.
  std::int64_t direct_bytes = 1 << 16;
};

Limits& limits();

}  // namespace photon::comm
