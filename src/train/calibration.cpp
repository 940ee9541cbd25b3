#include "train/calibration.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

#include "comm/bandwidth.hpp"
#include "model/compute.hpp"
#include "support/error.hpp"
#include "tensor/buffer.hpp"
#include "train/memory_plan.hpp"
#include "train/throughput.hpp"

namespace photon {
namespace {

// Bytes a second that copies of large buffers read and write: the best of a few.
double copy_bandwidth(Space space) {
  using Clock = std::chrono::steady_clock;
  const std::int64_t bytes = std::int64_t{space == Space::device ? 2048 : 64} << 20;
  const Tensor from(space, DType::u8, {bytes}, "a copy");
  const Tensor to(space, DType::u8, {bytes}, "a copy");
  const Compute compute(space, Numerics::tuned);
  double best = 0;
  for (int repeat = 0; repeat < 6; ++repeat) {
    const auto begin = Clock::now();
    copy(compute.context().stream, from, to.view());
    compute.synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, 2 * static_cast<double>(bytes) / seconds);
  }
  return best;
}

LinkConfig measure_link(World& world, Space space) {
  const bool gpus = space == Space::device;
  constexpr std::int64_t small = 1024;
  const std::int64_t large = std::int64_t{gpus ? 64 : 4} << 20;
  BandwidthOptions options;
  options.space = space;
  options.operations = {"send_receive", "chain"};
  options.min_bytes = small;
  options.max_bytes = large;
  options.factor = large / small;
  const Compute compute(space, Numerics::tuned);
  Communicator group = measured_group(world.all(), space, compute.context().stream);
  LinkConfig link;
  // Latency is what somebody waits for who needs the message; bandwidth what a rank sends while it receives as much.
  measure_bandwidth(group, options, [&](const Bandwidth& figure) {
    const bool chain = figure.operation == "chain";
    if (figure.bytes > small && !chain) link.bandwidth = figure.bus_bandwidth / 1e9;
    if (figure.bytes <= small && chain) link.latency = figure.seconds * 1e6;
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
  if (config.train.precision == Precision::fp8) {
    throw InputError("train.precision fp8 cannot be calibrated",
                     "the rate that is measured is of products in fp32 or bf16",
                     "measure with bf16 and add matrix_rate.fp8 to the file by hand");
  }
  const TrainPlace place = train_place(config.train);
  const bool gpus = place.space == Space::device;
  if (gpus && world.size() > 1) world.use_gpu();
  ClusterConfig cluster;
  cluster.nodes = world.size() / most;
  cluster.devices_per_node = most;
  const std::int64_t available = gpus ? available_bytes(place) : available_host_bytes() / most;
  cluster.memory = static_cast<double>(all.all_reduce(available, Reduction::min)) / 0x1p30;
  cluster.memory_bandwidth = mean(copy_bandwidth(place.space)) / 1e9;

  RunConfig alone = config;
  alone.train.batch_size = std::max<std::int64_t>(config.parallel.microbatch_size, 1);
  alone.parallel = {};
  all.barrier();
  const Throughput throughput = measure_training(alone, 1, steps);
  const double matrix_gflops = mean(throughput.matrix_gflops);
  (place.dtype == DType::bf16 ? cluster.matrix_rate.bf16 : cluster.matrix_rate.fp32) = matrix_gflops / 1e3;
  // Of the passes alone: the prediction counts the optimizer and the sums by themselves.
  const double pass_gflops = throughput.model_gflops * throughput.median_seconds / throughput.median_pass_seconds;
  cluster.efficiency = std::min(1.0, mean(pass_gflops) / matrix_gflops);
  if (world.size() > 1) {
    cluster.link_within_node = measure_link(world, place.space);
    if (cluster.nodes > 1) cluster.link_between_nodes = cluster.link_within_node;
  }
  return cluster;
}

std::string to_yaml(const ClusterConfig& cluster) {
  const auto link = [](const char* name, const LinkConfig& l) {
    return fmt::format("{}:\n  bandwidth: {:.4g}\n  latency: {:.4g}\n", name, l.bandwidth, l.latency);
  };
  const bool in_bf16 = cluster.matrix_rate.bf16 > 0;
  std::string text = fmt::format(
      "nodes: {}\ndevices_per_node: {}\nmemory: {:.2f}\nmatrix_rate:\n  {}: {:.4g}\nefficiency: {:.4g}\n"
      "memory_bandwidth: {:.4g}\n",
      cluster.nodes, cluster.devices_per_node, cluster.memory, in_bf16 ? "bf16" : "fp32",
      in_bf16 ? cluster.matrix_rate.bf16 : cluster.matrix_rate.fp32, cluster.efficiency, cluster.memory_bandwidth);
  if (cluster.num_devices() > 1) text += link("link_within_node", cluster.link_within_node);
  if (cluster.nodes > 1) text += link("link_between_nodes", cluster.link_between_nodes);
  return text;
}

}  // namespace photon
