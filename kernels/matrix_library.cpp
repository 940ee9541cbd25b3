#include "kernels/matrix_library.hpp"

#include <string_view>

// OpenBLAS's own; absent from other libraries, hence weak.
extern "C" {
char* openblas_get_config() __attribute__((weak));
char* openblas_get_corename() __attribute__((weak));
}

namespace photon {

std::string matrix_library() {
  if (openblas_get_config == nullptr || openblas_get_corename == nullptr) return "another BLAS";
  std::string_view config = openblas_get_config();
  config = config.substr(0, config.find_last_not_of(' ') + 1);
  return std::string(config) + " (" + openblas_get_corename() + " kernels)";
}

}  // namespace photon
