// Turns CUDA runtime errors into photon's. Only files that nvcc or the CUDA runtime headers reach include this.
#pragma once

#include <cuda_runtime.h>

#include "support/error.hpp"

namespace photon {

inline void check_cuda(cudaError_t result, const char* call, const char* file, int line) {
  if (result == cudaSuccess) return;
  throw Error(fmt::format("{} failed at {}:{}", call, file, line), cudaGetErrorString(result),
              "check the GPU with nvidia-smi; if it is healthy, report this as a defect in photon");
}

}  // namespace photon

// Evaluates `call` once.
#define PHOTON_CUDA_CHECK(call) ::photon::check_cuda((call), #call, __FILE__, __LINE__)
