// The table of keys of a cluster file, beside those of config/keys.hpp. Internal to this room.
#pragma once

#include "config/cluster_config.hpp"
#include "config/keys.hpp"

namespace photon::config {

template <class Visitor, class Link>
void describe_link(Visitor& v, Link& c) {
  v.scalar(Key("bandwidth", "GB/s", "what a device sends, and at the same time receives; 0: there is no such link")
               .at_least(0),
           c.bandwidth);
  v.scalar(Key("latency", "microseconds", "until the first byte of a message arrives").at_least(0), c.latency);
}

template <class Visitor, class Rates>
void describe_rates(Visitor& v, Rates& c) {
  v.scalar(Key("fp32", "TFLOP/s", "for `train.precision: fp32`; 0: not known").at_least(0), c.fp32);
  v.scalar(Key("bf16", "TFLOP/s", "for `train.precision: bf16`; 0: not known").at_least(0), c.bf16);
  v.scalar(Key("fp8", "TFLOP/s", "for `train.precision: fp8`; 0: not known").at_least(0), c.fp8);
}

template <class Visitor, class Costs>
void describe_decoding(Visitor& v, Costs& c) {
  v.scalar(Key("efficiency", "",
               "share of the matrix rate that products of many rows reach; 0: that of the key `efficiency` above")
               .at_least(0)
               .at_most(1),
           c.efficiency);
  v.scalar(Key("product_latency", "microseconds",
               "of a product of more than `few_rows` rows beside `op_overhead`, arithmetic and traffic")
               .at_least(0),
           c.product_latency);
  v.scalar(Key("few_rows", "rows", "up to so many a product is only the reading of its weights; 0: never")
               .at_least(0)
               .at_most(1 << 10),
           c.few_rows);
  v.scalar(
      Key("few_rows_slowdown", "", "share by which each row beyond the first makes that reading longer").at_least(0),
      c.few_rows_slowdown);
}

template <class Visitor, class Cluster>
void describe_cluster(Visitor& v, Cluster& c) {
  std::int64_t version = format_version;
  v.scalar(Key("format_version", "", "version of the format").at_least(1), version);
  v.scalar(Key("nodes", "nodes", "machines").at_least(1).at_most(1 << 20), c.nodes);
  v.scalar(
      Key("devices_per_node", "devices", "GPUs of a node, or processes that share its cores; each carries one rank")
          .at_least(1)
          .at_most(1 << 10),
      c.devices_per_node);
  v.scalar(Key("memory", "GiB", "memory of a device that a run may fill").above(0).required(), c.memory);
  v.group(Key("matrix_rate", "", "what a device reaches in large matrix products").required(),
          [&](auto& inner) { describe_rates(inner, c.matrix_rate); });
  v.scalar(Key("efficiency", "",
               "share of the matrix rate that whole passes of a model reach: `model_gflops` / `matrix_gflops` of "
               "`photon bench train`")
               .above(0)
               .at_most(1),
           c.efficiency);
  v.scalar(Key("memory_bandwidth", "GB/s", "of a device, in copies").above(0).required(), c.memory_bandwidth);
  v.scalar(Key("op_overhead", "microseconds",
               "of each op of a decoding step, from the end of the one before, beside its arithmetic and traffic; for "
               "`photon plan --decode`")
               .at_least(0),
           c.op_overhead);
  v.group(Key("decoding", "", "what products of a decoding step cost, for `photon plan --decode`"),
          [&](auto& inner) { describe_decoding(inner, c.decoding); });
  v.group(Key("link_within_node", "", "between two devices of a node"),
          [&](auto& inner) { describe_link(inner, c.link_within_node); });
  v.group(Key("link_between_nodes", "", "between two devices of different nodes"),
          [&](auto& inner) { describe_link(inner, c.link_between_nodes); });
}

}  // namespace photon::config
