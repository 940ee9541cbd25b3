#include "comm/clock_offsets.hpp"

#include <chrono>
#include <limits>

namespace photon {
namespace {

constexpr int tag = Communicator::max_tag;

ClockOffset ask(Communicator& all, int peer, int rounds) {
  ClockOffset best;
  std::int64_t shortest = std::numeric_limits<std::int64_t>::max();
  for (int i = 0; i < rounds; ++i) {
    std::int64_t question = i;
    std::int64_t theirs = 0;
    const std::int64_t begin = monotonic_ns();
    Sending sending = all.send(host_view(&question, {1}), peer, tag);
    all.receive(host_view(&theirs, {1}), peer, tag);
    const std::int64_t end = monotonic_ns();
    sending.wait();
    if (end - begin >= shortest) continue;
    shortest = end - begin;
    best = {theirs - (begin + shortest / 2), shortest / 2 + 1};
  }
  return best;
}

void answer(Communicator& all, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    std::int64_t question = 0;
    all.receive(host_view(&question, {1}), 0, tag);
    std::int64_t mine = monotonic_ns();
    all.send(host_view(&mine, {1}), 0, tag).wait();
  }
}

}  // namespace

std::int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::vector<ClockOffset> measure_clock_offsets(Communicator& all, int rounds) {
  PHOTON_EXPECT(rounds >= 1, "{} rounds", rounds);
  all.barrier();  // so that nobody's first answer waits for work of before
  if (all.rank() != 0) {
    answer(all, rounds);
    return {};
  }
  std::vector<ClockOffset> offsets(1);
  for (int peer = 1; peer < all.size(); ++peer) offsets.push_back(ask(all, peer, rounds));
  return offsets;
}

}  // namespace photon
