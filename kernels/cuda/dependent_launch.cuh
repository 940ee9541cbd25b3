// Kernels that start before the one in front of them has ended (programmatic dependent launch, from Hopper on): they
// may fetch what no earlier kernel writes, and then wait.
#pragma once

#include <utility>

#include "kernels/cuda/common.cuh"

namespace photon::cuda {

// Everything earlier kernels have written may be read behind it. What they write must not be a parameter that is const
// and
// __restrict__: a compiler may read such memory before.
__device__ inline void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel may start once all blocks have come here.
__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

inline bool device_has_dependent_launch() {
  static const bool has = [] {
    int device = 0;
    int major = 0;
    PHOTON_CUDA_CHECK(cudaGetDevice(&device));
    PHOTON_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major >= 9;
  }();
  return has;
}

// Launches a kernel that calls wait_for_earlier_kernels() before it reads or writes anything an earlier one touches;
// its blocks in clusters of `cluster` along x, where more than 1.
template <class... Parameters, class... Arguments>
void launch_dependent_clusters(void (*kernel)(Parameters...), dim3 grid, unsigned cluster, int threads,
                               std::int64_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2]{};
  unsigned count = 0;
  if (device_has_dependent_launch()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  PHOTON_CUDA_CHECK(
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...));
}
template <class... Parameters, class... Arguments>
void launch_dependent(void (*kernel)(Parameters...), dim3 grid, int threads, std::int64_t shared_bytes,
                      cudaStream_t stream, Arguments&&... arguments) {
  launch_dependent_clusters(kernel, grid, 1, threads, shared_bytes, stream, std::forward<Arguments>(arguments)...);
}

}  // namespace photon::cuda
