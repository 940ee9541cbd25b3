// The option --device, as all commands have it.
#pragma once

#include <string>

#include "config/run_config.hpp"

namespace CLI {
class App;
}

namespace photon::cli {

// Adds --device auto|cpu|cuda. Where `device` stays empty the option was not given.
void add_device_option(CLI::App& command, std::string& device);

Device device_option(const std::string& device);

}  // namespace photon::cli
