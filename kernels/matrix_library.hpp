// Which library computes large matrix products on the host, for reports.
#pragma once

#include <string>

namespace photon {

// E.g. "OpenBLAS 0.3.21 ... (Cooperlake kernels)"; "another BLAS" where it is not OpenBLAS.
std::string matrix_library();

}  // namespace photon
