#include "tensor/profiler.hpp"

#include <cuda_profiler_api.h>

#include "tensor/cuda_check.hpp"

namespace photon::device {

void start_profiler() {
  PHOTON_CUDA_CHECK(cudaProfilerStart());
}

void stop_profiler() {
  PHOTON_CUDA_CHECK(cudaProfilerStop());
}

}  // namespace photon::device
