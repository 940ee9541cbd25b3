// The machines a run is planned for: the typed form of configs/cluster/*.yaml (docs/configuration.md).
#pragma once

#include <cstdint>
#include <string>

namespace photon {

struct LinkConfig {
  double bandwidth = 0;  // GB/s a device sends, and at once receives
  double latency = 0;    // microseconds until the first byte of a message arrives
};

struct MatrixRates {  // TFLOP/s a device reaches in large matrix products; 0 = not known
  double fp32 = 0;
  double bf16 = 0;
  double fp8 = 0;
};

// What products of a decoding step cost beside their arithmetic and traffic.
struct DecodingCosts {
  double efficiency = 0;         // share of the matrix rate that they reach where rows are many; 0: the cluster's
  double product_latency = 0;    // microseconds until a product of more than few_rows rows is under way and has ended
  std::int64_t few_rows = 0;     // up to so many rows a product is only the reading of its weights, ...
  double few_rows_slowdown = 0;  // ... which each row beyond the first makes longer by this share
};

// Equal nodes of equal devices; a device (a GPU, or a process with its share of the cores) carries one rank.
struct ClusterConfig {
  std::int64_t nodes = 1;
  std::int64_t devices_per_node = 1;
  double memory = 0;  // GiB a device
  MatrixRates matrix_rate;
  double efficiency = 1;        // share of the matrix rate that whole passes of a model reach
  double memory_bandwidth = 0;  // GB/s a device
  double op_overhead = 0;       // microseconds of each op of a decoding step beside its arithmetic and traffic
  DecodingCosts decoding;
  LinkConfig link_within_node;
  LinkConfig link_between_nodes;

  std::int64_t num_devices() const { return nodes * devices_per_node; }
};

// Reads `file` (YAML) and checks it. Errors: InputError with the file, the line where known, the key, and for an
// unknown key the nearest known one; a cluster of several nodes or devices needs the link between them.
ClusterConfig load_cluster_config(const std::string& file);

// The same from YAML text; `where` stands for the file's name in messages.
ClusterConfig parse_cluster_config(const std::string& yaml, const std::string& where);

}  // namespace photon
