// Matrix products on the host: the deterministic kernel or BLAS, whichever the context asks for and is faster.
#pragma once

#include "kernels/cpu/loops.hpp"
#include "tensor/context.hpp"

namespace photon::cpu {

// c[r, o] (+)= sum_k a(r, k) b(o, k), with a and b as strided matrices of which one stride is 1. c [a.rows, b.rows] has
// rows `ldc` apart. Deterministic: c(r, o) is a function of row r of a and row o of b. Uses all threads; not to be
// called from inside a parallel region.
void matmul(Numerics numerics, const Matrix& a, const Matrix& b, std::int64_t k, float* c, std::int64_t ldc,
            bool accumulate);

}  // namespace photon::cpu
