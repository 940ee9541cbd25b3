// The denominator of MFU.
#pragma once

#include <string>

#include "config/run_config.hpp"

namespace photon {

// What a GPU's matrix units can do at most, by its name; no `flops` where it is not known.
struct DevicePeak {
  double flops = 0;  // dense, a second
  const char* source = "";
};
DevicePeak device_peak(const std::string& device, Precision precision);

}  // namespace photon
