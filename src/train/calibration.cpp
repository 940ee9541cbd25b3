#include "train/calibration.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "comm/bandwidth.hpp"
#include "support/error.hpp"
#include "train/memory_plan.hpp"
#include "train/throughput.hpp"

namespace photon {
namespace {

// Bytes a second that copies of large buffers read and write: the best of a few.
double copy_bandwidth() {
  using Clock = std::chrono::steady_clock;
  const std::vector<char> from(std::size_t{64} << 20, 1);
  std::vector<char> to(from.size());
  double best = 0;
  for (int repeat = 0; repeat < 6; ++repeat) {
    const auto begin = Clock::now();
    std::memcpy(to.data(), from.data(), from.size());
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, 2 * static_cast<double>(from.size()) / seconds);
  }
  return best;
}

LinkConfig measure_link(Communicator& all) {
  constexpr std::int64_t small = 1024;
  constexpr std::int64_t large = std::int64_t{4} << 20;
  BandwidthOptions options;
  options.operations = {"send_receive"};
  options.min_bytes = small;
  options.max_bytes = large;
  options.factor = large / small;
  LinkConfig link;
  measure_bandwidth(all, options, [&](const Bandwidth& figure) {
    if (figure.bytes > small) {
      link.bandwidth = figure.bus_bandwidth / 1e9;
    } else {
      link.latency = figure.seconds * 1e6;
    }
  });
  return link;
}

}  // namespace

ClusterConfig measure_cluster(World& world, const RunConfig& config, std::int64_t steps) {
  Communicator& all = world.all();
  const std::int64_t most = all.all_reduce(std::int64_t{world.local_size()}, Reduction::max);
  const std::int64_t least = all.all_reduce(std::int64_t{world.local_size()}, Reduction::min);
  if (most != least) {
    throw InputError("hosts have unequally many ranks", fmt::format("{} and {}", least, most),
                     "start as many on each, as a cluster file has equal nodes");
  }
  const auto mean = [&](double value) {
    return all.all_reduce(value, Reduction::sum) / static_cast<double>(all.size());
  };
  ClusterConfig cluster;
  cluster.nodes = world.size() / most;
  cluster.devices_per_node = most;
  cluster.memory = static_cast<double>(all.all_reduce(available_host_bytes() / most, Reduction::min)) / 0x1p30;
  cluster.memory_bandwidth = mean(copy_bandwidth()) / 1e9;

  RunConfig alone = config;
  alone.train.batch_size = std::max<std::int64_t>(config.parallel.microbatch_size, 1);
  alone.parallel = {};
  all.barrier();
  const Throughput throughput = measure_training(alone, 1, steps);
  cluster.matrix_rate.fp32 = mean(throughput.matrix_gflops) / 1e3;
  // Of the passes alone: the prediction counts the optimizer and the sums by themselves.
  const double pass_gflops = throughput.model_gflops * throughput.median_seconds / throughput.median_pass_seconds;
  cluster.efficiency = std::min(1.0, mean(pass_gflops) / mean(throughput.matrix_gflops));
  if (world.size() > 1) {
    cluster.link_within_node = measure_link(all);
    if (cluster.nodes > 1) cluster.link_between_nodes = cluster.link_within_node;
  }
  return cluster;
}

std::string to_yaml(const ClusterConfig& cluster) {
  const auto link = [](const char* name, const LinkConfig& l) {
    return fmt::format("{}:\n  bandwidth: {:.4g}\n  latency: {:.4g}\n", name, l.bandwidth, l.latency);
  };
  std::string text = fmt::format(
      "nodes: {}\ndevices_per_node: {}\nmemory: {:.2f}\nmatrix_rate:\n  fp32: {:.4g}\nefficiency: {:.3f}\n"
      "memory_bandwidth: {:.4g}\n",
      cluster.nodes, cluster.devices_per_node, cluster.memory, cluster.matrix_rate.fp32, cluster.efficiency,
      cluster.memory_bandwidth);
  if (cluster.num_devices() > 1) text += link("link_within_node", cluster.link_within_node);
  if (cluster.nodes > 1) text += link("link_between_nodes", cluster.link_between_nodes);
  return text;
}

}  // namespace photon
