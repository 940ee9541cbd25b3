#include "tensor/device.hpp"

namespace photon {

Space space_of_device(const std::string& device) {
  if (device == "cpu") return Space::host;
  const bool usable = device::count() > 0;
  if (device == "auto") return usable ? Space::device : Space::host;
  if (device != "cuda") throw InputError(fmt::format("unknown device '{}'", device), "", "use auto, cpu or cuda");
  if (!usable) {
    throw InputError("there is no GPU to compute on", "this build or this machine has none that can be used",
                     "use the device cpu, or build photon with CUDA (CONTRIBUTING.md)");
  }
  return Space::device;
}

}  // namespace photon
