// Waiting for an event as device::set_wait() says. Only files of this room that the CUDA runtime headers reach include
// this.
#pragma once

#include <cuda_runtime.h>

namespace photon::device {

void wait_for_event(cudaEvent_t event);

}  // namespace photon::device
