#include "kernels/cuda/tma.hpp"

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <array>

#include "tensor/cuda_check.hpp"

namespace photon::cuda {
namespace {

// The driver's own function: photon links the runtime alone, so that it starts where there is no driver.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    PHOTON_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result));
#else
    PHOTON_CUDA_CHECK(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result));
#endif
    PHOTON_EXPECT(result == cudaDriverEntryPointSuccess, "a CUDA driver without cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return found;
}

}  // namespace

CUtensorMap head_map(const ConstTensorView& x, int rows) {
  constexpr cuuint32_t columns = 64;
  const auto size = [&](int dim) { return static_cast<cuuint64_t>(x.size(dim)); };
  const std::array<cuuint64_t, 4> sizes = {size(3), size(2), size(1), size(0)};
  std::array<cuuint64_t, 3> strides{};  // bytes
  cuuint64_t extent = 2 * size(3);
  for (int i = 0; i < 3; ++i) {
    const int dim = 2 - i;
    // A dim of size 1 may have any stride in photon; the driver expects one that leaves room for the dims inside.
    strides[static_cast<std::size_t>(i)] = x.size(dim) > 1 ? static_cast<cuuint64_t>(x.stride(dim)) * 2 : extent;
    extent = strides[static_cast<std::size_t>(i)] * size(dim);
  }
  const std::array<cuuint32_t, 4> box = {columns, 1, static_cast<cuuint32_t>(rows), 1};
  const std::array<cuuint32_t, 4> steps = {1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult result =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(x.data()), sizes.data(), strides.data(),
                box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  PHOTON_EXPECT(result == CUDA_SUCCESS, "the copy engine refuses a tensor of {} with strides {} (error {})",
                x.shape().str(), x.strides().str(), static_cast<int>(result));
  return map;
}

}  // namespace photon::cuda
