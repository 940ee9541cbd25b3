#include "config/cluster_config.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "expect_error.hpp"

namespace photon {
namespace {

using testing::expect_input_error;

constexpr const char* text = R"(nodes: 2
devices_per_node: 4
memory: 78
matrix_rate: {bf16: 776, fp32: 67}
efficiency: 0.5
memory_bandwidth: 2932
link_within_node: {bandwidth: 337, latency: 10}
link_between_nodes: {bandwidth: 50, latency: 20}
)";

std::string with(const std::string& from, const std::string& to) {
  std::string changed = text;
  const auto at = changed.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return changed.replace(at, from.size(), to);
}

void refused(const std::string& yaml, const std::vector<std::string>& parts) {
  expect_input_error([&] { parse_cluster_config(yaml, "c.yaml"); }, parts);
}

TEST(ClusterConfig, IsRead) {
  const ClusterConfig c = parse_cluster_config(text, "c.yaml");
  EXPECT_EQ(c.num_devices(), 8);
  EXPECT_EQ(c.memory, 78);
  EXPECT_EQ(c.matrix_rate.bf16, 776);
  EXPECT_EQ(c.matrix_rate.fp32, 67);
  EXPECT_EQ(c.matrix_rate.fp8, 0);
  EXPECT_EQ(c.efficiency, 0.5);
  EXPECT_EQ(c.memory_bandwidth, 2932);
  EXPECT_EQ(c.link_within_node.bandwidth, 337);
  EXPECT_EQ(c.link_between_nodes.latency, 20);
}

TEST(ClusterConfig, NamesWhatIsWrong) {
  refused(with("devices_per_node", "device_per_node"),
          {"unknown key device_per_node (c.yaml:2", "did you mean devices_per_node?"});
  refused(with("latency: 10", "delay: 10"), {"unknown key link_within_node.delay", "c.yaml:7"});
  refused(with("memory: 78\n", ""), {"memory is missing", "add it"});
  refused(with("memory: 78", "memory: 0"), {"memory is 0", "a number above 0"});
  refused(with("nodes: 2", "nodes: 0"), {"nodes is 0", "c.yaml:1", "at least 1"});
  refused(with("nodes: 2", "nodes: many"), {"nodes is \"many\"", "an integer"});
  refused(with("efficiency: 0.5", "efficiency: 1.5"), {"efficiency is 1.5", "at most 1"});
  refused(with("link_between_nodes: {bandwidth: 50, latency: 20}", ""),
          {"link_between_nodes.bandwidth is missing", "nodes is 2, so messages cross that link"});
  refused(with("link_within_node: {bandwidth: 337, latency: 10}", ""), {"link_within_node.bandwidth is missing"});
  refused(std::string(text) + "format_version: 2\n", {"format_version 2", "update photon"});
}

TEST(ClusterConfig, ShippedOnesLoad) {
  int num_files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(PHOTON_SOURCE_DIR) / "configs" / "cluster")) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_NO_THROW(load_cluster_config(entry.path().string())) << entry.path();
    ++num_files;
  }
  EXPECT_GE(num_files, 4);
}

}  // namespace
}  // namespace photon
