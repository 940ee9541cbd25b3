// Steps of a local decoder on a device, short sequences with one or a few new positions, against the host's.
#include "kernels/attention_step.hpp"

#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

struct Case {
  std::int64_t rows, first, positions, queries, heads, key_heads, width, capacity;
};
std::ostream& operator<<(std::ostream& to, const Case& c) {
  return to << c.rows << " rows of " << c.positions << " new positions from " << c.first << ", " << c.queries
            << " queries, heads " << c.heads << "/" << c.key_heads << " of " << c.width << ", capacity " << c.capacity;
}

using LocalSteps = OnDevice;
PHOTON_BOTH_DTYPES(LocalSteps);

// Slots lie in another order than rows, and one belongs to no row.
TEST_P(LocalSteps, AreTheHosts) {
  for (const Case c :
       {Case{1, 0, 4, 1, 12, 12, 128, 7}, Case{1, 4, 1, 1, 12, 12, 128, 7}, Case{3, 6, 1, 1, 12, 4, 128, 7},
        Case{2, 0, 4, 4, 6, 2, 64, 8}, Case{8, 7, 1, 1, 4, 4, 64, 8}, Case{1, 0, 8, 8, 3, 1, 128, 8},
        Case{1, 0, 1, 1, 2, 2, 64, 1}, Case{5, 3, 2, 1, 8, 4, 128, 5}, Case{70, 3, 1, 1, 4, 4, 64, 6},
        Case{300, 3, 1, 1, 4, 4, 64, 6}, Case{2, 9, 3, 3, 4, 2, 128, 12}, Case{1, 16, 1, 1, 12, 12, 64, 20}}) {
    SCOPED_TRACE(::testing::Message() << c);
    RopeTable table(c.width, 10000.0);
    RopeTable host_table(c.width, 10000.0);
    table.reserve(Space::device, c.capacity);
    host_table.reserve(Space::host, c.capacity);
    std::vector<std::int32_t> slots;
    for (std::int64_t r = 0; r < c.rows; ++r) slots.push_back(static_cast<std::int32_t>(c.rows - r));
    const IntPair slot = pair_of(slots);
    const IntPair first =
        pair_of(std::vector<std::int32_t>(static_cast<std::size_t>(c.rows), static_cast<std::int32_t>(c.first)));
    const Pair q = random_pair(GetParam(), {c.rows, c.queries, c.heads, c.width}, 1);
    const Pair k = random_pair(GetParam(), {c.rows, c.positions, c.key_heads, c.width}, 2);
    const Pair v = random_pair(GetParam(), {c.rows, c.positions, c.key_heads, c.width}, 3);
    const Pair keys = random_pair(GetParam(), {c.rows + 1, c.capacity, c.key_heads, c.width}, 4);
    const Pair values = random_pair(GetParam(), {c.rows + 1, c.capacity, c.key_heads, c.width}, 5);
    const Pair out = poisoned_pair(GetParam(), {c.rows, c.queries, c.heads, c.width});
    const auto step = [&](bool device) {
      const auto of = [&](const Pair& pair) { return device ? pair.device.view() : pair.host.view(); };
      AttentionStep s;
      s.q = of(q);
      s.k = of(k);
      s.v = of(v);
      s.slot = device ? slot.device.view() : slot.host.view();
      s.first = device ? first.device.view() : first.host.view();
      s.cache_k = of(keys);
      s.cache_v = of(values);
      s.local = true;
      s.out = of(out);
      return s;
    };
    attention_step(ctx_, table, step(true));
    attention_step(host_, host_table, step(false));
    expect_match(out, 3 * tolerance(c.width));  // queries and keys are rounded as well
    expect_match(keys, tolerance(c.width));
    expect_match(values, tolerance(c.width));
  }
}

}  // namespace
}  // namespace photon
