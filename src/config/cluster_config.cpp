#include "config/cluster_config.hpp"

#include "config/cluster_keys.hpp"
#include "config/visitors.hpp"

namespace photon {
namespace config {
namespace {

void require_links(const ClusterConfig& c, const Document& source) {
  const auto require = [&](const char* section, double bandwidth, const char* count_key, std::int64_t count) {
    if (count < 2 || bandwidth > 0) return;
    throw source.error(join_path(section, "bandwidth"), "is missing",
                       fmt::format("{} is {}, so messages cross that link", count_key, count), "add what was measured");
  };
  require("link_within_node", c.link_within_node.bandwidth, "devices_per_node", c.devices_per_node);
  require("link_between_nodes", c.link_between_nodes.bandwidth, "nodes", c.nodes);
}

}  // namespace
}  // namespace config

ClusterConfig parse_cluster_config(const std::string& yaml, const std::string& where) {
  const config::Document document = config::parse_yaml(yaml, where);
  config::check_format_version(document, document.tree, "");
  ClusterConfig result;
  config::KeyNames names;
  config::describe_cluster(names, result);
  config::Reader(document, document.tree, "", names.paths).read([&](auto& v) { config::describe_cluster(v, result); });
  config::Checker ranges(document, "");
  config::describe_cluster(ranges, static_cast<const ClusterConfig&>(result));
  config::require_links(result, document);
  return result;
}

ClusterConfig load_cluster_config(const std::string& file) {
  return parse_cluster_config(config::read_text_file(file), file);
}

}  // namespace photon
