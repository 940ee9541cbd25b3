// cuBLASLt's handles with owners, for the files that talk to it.
#pragma once

#include <cublasLt.h>

#include <memory>
#include <type_traits>

#include "support/error.hpp"

namespace photon::cuda {

inline void check_blas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(fmt::format("{} failed", call), cublasLtGetStatusString(status),
              "check the GPU with nvidia-smi; if it is healthy, report this as a defect in photon");
}

#define PHOTON_BLAS_CHECK(call) ::photon::cuda::check_blas((call), #call)

template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct Destroyer {
  using pointer = Handle;
  void operator()(Handle handle) const { (void)destroy(handle); }
};
template <class Handle, cublasStatus_t (*destroy)(Handle)>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroyer<Handle, destroy>>;
using Library = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

}  // namespace photon::cuda
