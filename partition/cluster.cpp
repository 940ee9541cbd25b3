#include "partition/cluster.hpp"

#include <algorithm>
#include <limits>

#include "support/error.hpp"

namespace photon {

Cluster make_cluster(const ClusterConfig& config, Precision precision) {
  const MatrixRates& rates = config.matrix_rate;
  const double rate = precision == Precision::fp32 ? rates.fp32 : precision == Precision::bf16 ? rates.bf16 : rates.fp8;
  const char* name = precision == Precision::fp32 ? "fp32" : precision == Precision::bf16 ? "bf16" : "fp8";
  if (!(rate > 0)) {
    throw InputError(fmt::format("the cluster file gives no matrix rate for train.precision {}", name),
                     fmt::format("matrix_rate.{} is 0 or missing, so no time can be predicted", name),
                     fmt::format("add matrix_rate.{} to it, or plan another train.precision", name));
  }
  const auto link = [](const LinkConfig& c) { return Link{c.bandwidth * 1e9, c.latency * 1e-6}; };
  return {.num_ranks = config.num_devices(),
          .ranks_per_node = config.devices_per_node,
          .memory_bytes = static_cast<std::int64_t>(config.memory * 0x1p30),
          .flops = rate * 1e12 * config.efficiency,
          .memory_bandwidth = config.memory_bandwidth * 1e9,
          .op_overhead = config.op_overhead * 1e-6,
          .decoding_flops = rate * 1e12 * config.decoding.efficiency,
          .product_latency = config.decoding.product_latency * 1e-6,
          .few_rows = config.decoding.few_rows,
          .few_rows_slowdown = config.decoding.few_rows_slowdown,
          .within_node = link(config.link_within_node),
          .between_nodes = link(config.link_between_nodes)};
}

Cluster usual_cluster(std::int64_t num_ranks, std::int64_t ranks_per_node, bool gpus) {
  return {.num_ranks = num_ranks,
          .ranks_per_node = ranks_per_node,
          .memory_bytes = std::numeric_limits<std::int64_t>::max(),
          .flops = gpus ? 6e14 : 1e11,
          .memory_bandwidth = gpus ? 3e12 : 1e10,
          .op_overhead = 0,
          .decoding_flops = 0,
          .product_latency = 0,
          .few_rows = 0,
          .few_rows_slowdown = 0,
          .within_node = gpus ? Link{3e11, 1e-5} : Link{5e9, 1e-5},
          .between_nodes = gpus ? Link{5e10, 2e-5} : Link{1e9, 5e-5}};
}

double reduce_scatter_seconds(const Cluster& cluster, const RankLine& line, double bytes) {
  PHOTON_EXPECT(line.count >= 1 && line.stride >= 1, "{} ranks {} apart", line.count, line.stride);
  if (line.count == 1 || bytes <= 0) return 0;
  const std::int64_t reach = std::max<std::int64_t>(1, (cluster.ranks_per_node + line.stride - 1) / line.stride);
  const std::int64_t together = std::min(line.count, reach);          // g
  const std::int64_t nodes = (line.count + together - 1) / together;  // m
  const auto ring = [](const Link& link, double total, std::int64_t n) {
    return n < 2 ? 0.0 : static_cast<double>(n - 1) * link.seconds(total / static_cast<double>(n));
  };
  return ring(cluster.within_node, bytes, together) +
         ring(cluster.between_nodes, bytes / static_cast<double>(together), nodes);
}

double all_reduce_seconds(const Cluster& cluster, const RankLine& line, double bytes) {
  return 2 * reduce_scatter_seconds(cluster, line, bytes);
}

}  // namespace photon
