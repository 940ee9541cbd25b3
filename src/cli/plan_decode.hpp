// photon plan --decode: which ranks decode what, and what they would reach.
#pragma once

#include <cstdint>
#include <string>

#include "config/cluster_config.hpp"
#include "config/run_config.hpp"

namespace CLI {
class App;
}

namespace photon::cli {

struct DecodeOptions {
  std::string mode = "hiergen";
  std::string precision;  // empty: the configuration's
  std::int64_t prompt_tokens = 128;
  std::int64_t new_tokens = 256;
  std::int64_t batch = 0;    // 0: what is fastest
  std::int64_t shards = -1;  // -1: any number
};

void add_decode_options(CLI::App& command, DecodeOptions& options);

// On stdout, as a table or JSON. Errors: InputError for what cannot be decoded so.
void print_decode_plan(const RunConfig& config, const ClusterConfig& cluster, const DecodeOptions& options, bool json);

}  // namespace photon::cli
