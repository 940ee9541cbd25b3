// What a build without CUDA answers.
#include "comm/device_group.hpp"

namespace photon::comm {

std::unique_ptr<DeviceGroup> make_device_group(const std::shared_ptr<Group>&, Communicator&, Stream,
                                               const std::vector<Route>&) {
  throw NotConfigured("communication between GPUs", "CUDA and NCCL");
}

std::string gpu_identity(int) {
  throw NotConfigured("a GPU", "CUDA");
}

}  // namespace photon::comm
