#include "cli/device_option.hpp"

#include <CLI/CLI.hpp>

namespace photon::cli {

void add_device_option(CLI::App& command, std::string& device) {
  command.add_option("--device", device, "where to compute; auto: the GPU where there is one")
      ->type_name("auto|cpu|cuda")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
}

Device device_option(const std::string& device) {
  return device == "cpu" ? Device::cpu : device == "cuda" ? Device::cuda : Device::automatic;
}

}  // namespace photon::cli
