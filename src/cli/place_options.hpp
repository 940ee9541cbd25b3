// The options --device and --precision of commands that use a model.
#pragma once

#include <string>

#include "decode/place.hpp"

namespace CLI {
class App;
}

namespace photon::cli {

struct PlaceOptions {
  std::string device = "auto";
  std::string precision = "auto";
};

void add_place_options(CLI::App& command, PlaceOptions& options);

}  // namespace photon::cli
