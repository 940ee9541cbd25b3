#include "partition/cluster.hpp"

#include <gtest/gtest.h>

#include <string>

#include "support/error.hpp"

namespace photon {
namespace {

// Two nodes of four: 100 GB/s and 1 us within, 10 GB/s and 5 us between.
Cluster two_nodes() {
  ClusterConfig config;
  config.nodes = 2;
  config.devices_per_node = 4;
  config.memory = 2;
  config.matrix_rate.bf16 = 50;
  config.efficiency = 0.5;
  config.memory_bandwidth = 1000;
  config.link_within_node = {100, 1};
  config.link_between_nodes = {10, 5};
  return make_cluster(config, Precision::bf16);
}

TEST(Cluster, CountsInPlainUnits) {
  const Cluster c = two_nodes();
  EXPECT_EQ(c.num_ranks, 8);
  EXPECT_EQ(c.memory_bytes, std::int64_t{2} << 30);
  EXPECT_DOUBLE_EQ(c.flops, 25e12);
  EXPECT_DOUBLE_EQ(c.memory_bandwidth, 1e12);
  EXPECT_DOUBLE_EQ(c.link(0, 3).seconds(1e9), 1e-6 + 0.01);
  EXPECT_DOUBLE_EQ(c.link(3, 4).seconds(1e9), 5e-6 + 0.1);
  EXPECT_EQ(c.link(0, 3).seconds(0), 0);
}

TEST(Cluster, RefusesAPrecisionWithoutARate) {
  ClusterConfig config;
  config.matrix_rate.bf16 = 50;
  try {
    make_cluster(config, Precision::fp8);
    ADD_FAILURE();
  } catch (const InputError& error) {
    EXPECT_EQ(std::string(error.what()),
              "the cluster file gives no matrix rate for train.precision fp8 (matrix_rate.fp8 is 0 or missing, so no "
              "time can be predicted) add matrix_rate.fp8 to it, or plan another train.precision");
  }
}

TEST(Cluster, SumsInRings) {
  const Cluster c = two_nodes();
  EXPECT_EQ(all_reduce_seconds(c, {.count = 1, .stride = 1}, 1e9), 0);
  EXPECT_EQ(all_reduce_seconds(c, {.count = 8, .stride = 1}, 0), 0);
  // Four in a node: 6 messages of a quarter.
  EXPECT_NEAR(all_reduce_seconds(c, {.count = 4, .stride = 1}, 1e9), 6 * (1e-6 + 0.0025), 1e-12);
  // One a node, four apart: 2 messages of a half between nodes.
  EXPECT_NEAR(all_reduce_seconds(c, {.count = 2, .stride = 4}, 1e9), 2 * (5e-6 + 0.05), 1e-12);
  // All eight: within the nodes, then a quarter between them.
  EXPECT_NEAR(all_reduce_seconds(c, {.count = 8, .stride = 1}, 1e9), 6 * (1e-6 + 0.0025) + 2 * (5e-6 + 0.0125), 1e-12);
  // Two a node.
  EXPECT_NEAR(all_reduce_seconds(c, {.count = 4, .stride = 2}, 1e9), 2 * (1e-6 + 0.005) + 2 * (5e-6 + 0.025), 1e-12);
  EXPECT_DOUBLE_EQ(reduce_scatter_seconds(c, {.count = 8, .stride = 1}, 1e9) * 2,
                   all_reduce_seconds(c, {.count = 8, .stride = 1}, 1e9));
}

TEST(Cluster, MoreBytesOrSlowerLinksTakeLonger) {
  Cluster c = two_nodes();
  const double before = all_reduce_seconds(c, {.count = 8, .stride = 1}, 1e9);
  EXPECT_GT(all_reduce_seconds(c, {.count = 8, .stride = 1}, 2e9), before);
  c.between_nodes.bandwidth /= 2;
  EXPECT_GT(all_reduce_seconds(c, {.count = 8, .stride = 1}, 1e9), before);
}

}  // namespace
}  // namespace photon
