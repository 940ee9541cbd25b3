// The cluster as the cost model sees it: what a rank computes and moves in a second, in plain SI units, and how long
// messages take between ranks. Ranks fill nodes in order.
#pragma once

#include <cstdint>

#include "config/cluster_config.hpp"
#include "config/run_config.hpp"

namespace photon {

struct Link {
  double bandwidth = 0;  // bytes a second a rank sends, and at once receives
  double latency = 0;    // seconds

  // One message. A link without bandwidth carries none.
  double seconds(double bytes) const { return bytes > 0 ? latency + bytes / bandwidth : 0; }
};

struct Cluster {
  std::int64_t num_ranks = 1;
  std::int64_t ranks_per_node = 1;
  std::int64_t memory_bytes = 0;  // a rank
  double flops = 0;               // FLOP/s of a rank in a model's matrix products
  double memory_bandwidth = 0;    // bytes/s of a rank
  double op_overhead = 0;         // seconds of an op of a decoding step beside its arithmetic and traffic
  double decoding_flops = 0;      // FLOP/s in decoding's products of many rows; 0: flops
  double product_latency = 0;     // seconds of a decoding product of more than few_rows rows besides
  std::int64_t few_rows = 0;      // products of up to so many rows are the reading of their weights, ...
  double few_rows_slowdown = 0;   // ... longer by this share for each row beyond the first
  Link within_node;
  Link between_nodes;

  std::int64_t node(std::int64_t rank) const { return rank / ranks_per_node; }
  const Link& link(std::int64_t from, std::int64_t to) const {
    return node(from) == node(to) ? within_node : between_nodes;
  }
};

// Errors: InputError when the file gives no matrix rate for the precision.
Cluster make_cluster(const ClusterConfig& config, Precision precision);

// Ranks of today's proportions, for choices that depend on little else: GPUs, or processes with a few cores each. Its
// memory has no limit.
Cluster usual_cluster(std::int64_t num_ranks, std::int64_t ranks_per_node, bool gpus);

// `count` ranks `stride` apart, the first of them on the first place of a node: how they lie on nodes.
struct RankLine {
  std::int64_t count = 1;
  std::int64_t stride = 1;
};

// Seconds of a sum of `bytes` over a line of ranks that ends on all of them. Within nodes first (a ring: g - 1 messages
// of a g-th, twice), then between the m nodes on the g-th that each rank holds: 2 (m - 1) messages of an m-th of it. A
// ring moves the least bytes there can be, so this is what large gradients take.
double all_reduce_seconds(const Cluster& cluster, const RankLine& line, double bytes);

// Half of it: each rank ends with its part of the sum, or each starts with its part and ends with all.
double reduce_scatter_seconds(const Cluster& cluster, const RankLine& line, double bytes);

}  // namespace photon
