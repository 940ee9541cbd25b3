// The options --device and --precision of commands that use a model, and --memory-limit of those that fill memory.
#pragma once

#include <cstdint>
#include <string>

#include "decode/place.hpp"

namespace CLI {
class App;
}

namespace photon::cli {

struct PlaceOptions {
  std::string device = "auto";
  std::string precision = "auto";
  double memory_limit = 0;  // GiB; 0: none
};

void add_place_options(CLI::App& command, PlaceOptions& options);
void add_memory_limit_option(CLI::App& command, double& gibibytes);
inline std::int64_t memory_limit_bytes(double gibibytes) {
  return static_cast<std::int64_t>(gibibytes * 0x1p30);
}

}  // namespace photon::cli
