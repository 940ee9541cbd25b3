#include "comm/bandwidth.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>

#include "tensor/buffer.hpp"

namespace photon {
namespace {

// Rounds are long enough for the clock and short enough for patience, seconds.
constexpr double round_seconds = 0.05;
constexpr std::int64_t max_repeats = 200;

// The tensors of one size: `large` holds S bytes, `part` one n-th of it.
struct Memory {
  TensorView large;
  TensorView other;
  TensorView part;
};

struct Case {
  std::string_view name;
  double (*bus_factor)(double n);
  void (*run)(Communicator& group, const Memory& memory);
  bool in_turn = false;  // one run is a message after another, as many as ranks
};

void send_receive(Communicator& group, const Memory& memory) {
  const int n = group.size();
  Pending sent = group.send(memory.large, (group.rank() + 1) % n, 0);
  group.receive(memory.other, (group.rank() + n - 1) % n, 0);
  sent.wait();
}

// Behind what was received, not beside it: on GPUs the host runs ahead, and the streams keep the order.
void pass_on(Communicator& group, const Memory& memory) {
  const int n = group.size();
  Pending sent;
  if (group.rank() == 0) sent = group.send(memory.large, 1, 0);
  group.receive(memory.other, (group.rank() + n - 1) % n, 0);
  if (group.rank() != 0) sent = group.send(memory.large, (group.rank() + 1) % n, 0);
  sent.wait();
}

constexpr Case cases[] = {
    {"all_reduce", [](double n) { return 2 * (n - 1) / n; },
     [](Communicator& g, const Memory& m) { g.all_reduce(m.large, Reduction::sum); }},
    {"reduce_scatter", [](double n) { return (n - 1) / n; },
     [](Communicator& g, const Memory& m) { g.reduce_scatter(m.large, m.part, Reduction::sum); }},
    {"all_gather", [](double n) { return (n - 1) / n; },
     [](Communicator& g, const Memory& m) { g.all_gather(m.part, m.large); }},
    {"all_to_all", [](double n) { return (n - 1) / n; },
     [](Communicator& g, const Memory& m) { g.all_to_all(m.large, m.other); }},
    {"broadcast", [](double) { return 1.0; }, [](Communicator& g, const Memory& m) { g.broadcast(m.large, 0); }},
    {"send_receive", [](double) { return 1.0; }, send_receive},
    {"chain", [](double) { return 1.0; }, pass_on, true},
};

// Seconds that `repeats` operations take on the slowest rank.
double time_round(Communicator& group, const Case& operation, const Memory& memory, std::int64_t repeats) {
  using Clock = std::chrono::steady_clock;
  const bool device = memory.large.space() == Space::device;
  if (device) group.synchronize();
  group.barrier();
  const auto begin = Clock::now();
  for (std::int64_t i = 0; i < repeats; ++i) operation.run(group, memory);
  if (device) group.synchronize();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return group.all_reduce(seconds, Reduction::max);
}

}  // namespace

const std::vector<std::string_view>& measured_operations() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> list;
    for (const Case& operation : cases) list.push_back(operation.name);
    return list;
  }();
  return names;
}

Communicator measured_group(Communicator& all, Space space, Stream compute) {
  Communicator group = all.split(0, "links");
  if (space == Space::host) return group;
  std::vector<Route> routes;
  for (int r = 0; r < all.size() && all.size() > 1; ++r) routes.push_back({r, (r + 1) % all.size()});
  group.use_device(compute, routes);
  return group;
}

void measure_bandwidth(Communicator& group, const BandwidthOptions& options,
                       const std::function<void(const Bandwidth&)>& report) {
  for (const std::string& name : options.operations) {
    const auto& known = measured_operations();
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw InputError(fmt::format("unknown operation {}", name), "it is not measured",
                       fmt::format("choose from {}", fmt::join(known, ", ")));
    }
  }
  PHOTON_EXPECT(options.factor > 1 && options.min_bytes > 0 && options.rounds > 0, "nothing to measure");
  const std::int64_t n = group.size();
  const auto element = static_cast<std::int64_t>(size_of(options.dtype));
  const auto elements = [&](std::int64_t bytes) { return std::max<std::int64_t>(1, bytes / element / n) * n; };
  const std::int64_t most = elements(std::max(options.min_bytes, options.max_bytes));
  const Tensor large(options.space, options.dtype, {most}, "the bandwidth of communication");
  const Tensor other(options.space, options.dtype, {most}, "the bandwidth of communication");
  const Tensor part(options.space, options.dtype, {most / n}, "the bandwidth of communication");
  for (const Case& operation : cases) {
    const auto& wanted = options.operations;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), operation.name) == wanted.end()) continue;
    if (n == 1 && operation.bus_factor(1) != 0) continue;
    for (std::int64_t bytes = options.min_bytes; bytes <= options.max_bytes; bytes *= options.factor) {
      const std::int64_t length = elements(bytes);
      const Memory memory{large.view().slice(0, 0, length), other.view().slice(0, 0, length),
                          part.view().slice(0, 0, length / n)};
      time_round(group, operation, memory, 1);
      const double once = time_round(group, operation, memory, 2) / 2;
      Bandwidth result;
      result.operation = operation.name;
      result.bytes = length * element;
      result.repeats =
          std::clamp(static_cast<std::int64_t>(round_seconds / std::max(once, 1e-9)), std::int64_t{1}, max_repeats);
      std::vector<double> rounds;
      for (int round = 0; round < options.rounds; ++round) {
        const auto count = static_cast<double>(result.repeats * (operation.in_turn ? n : 1));
        rounds.push_back(time_round(group, operation, memory, result.repeats) / count);
      }
      std::sort(rounds.begin(), rounds.end());
      result.seconds = rounds[rounds.size() / 2];
      result.algorithm_bandwidth = static_cast<double>(result.bytes) / result.seconds;
      result.bus_bandwidth = result.algorithm_bandwidth * operation.bus_factor(static_cast<double>(n));
      report(result);
    }
  }
}

}  // namespace photon
