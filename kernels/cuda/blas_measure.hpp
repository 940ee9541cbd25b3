// Times algorithms for one matrix product on the GPU and takes the fastest.
#pragma once

#include <functional>
#include <vector>

#include "kernels/cuda/blas_lt.hpp"
#include "tensor/context.hpp"

namespace photon::cuda {

struct Measured {
  cublasLtMatmulAlgo_t algorithm;
  double microseconds;
};

// Queues one product with this algorithm, with its result at `result`.
using RunProduct = std::function<cublasStatus_t(const cublasLtMatmulAlgo_t& algorithm, void* result)>;

// Each candidate runs a few times on the call's own operands, its result going to memory of its own (`result_bytes`);
// between the runs of small products (`operand_bytes`) the cache is overwritten, as it would be by the rest of a model.
// Waits for the GPU; not for streams under capture. Candidates that fail are passed over. Without memory for it, or
// when all fail, the first candidate stands, with 0 microseconds.
Measured fastest_algorithm(const Context& ctx, const std::vector<cublasLtMatmulAlgo_t>& candidates,
                           const RunProduct& run, std::int64_t result_bytes, std::int64_t operand_bytes);

}  // namespace photon::cuda
