// Matrix products by cuBLASLt, with algorithms that are chosen once a shape.
#pragma once

#include "kernels/linear.hpp"
#include "tensor/context.hpp"

namespace photon::cuda {

// A row-major matrix product c = a b (+ c): a [M, K] or transposed [K, M], b [K, N] or transposed [N, K], c [M, N];
// rows may be strided. a and b share a dtype (f32 or bf16), c is f32 or that; sums are float32, never tf32.
// row_independent: the algorithm is chosen without looking at M, so that the bits of a row of c do not depend on how
// many rows stand beside it.
struct Product {
  ConstTensorView a;
  bool a_transposed = false;
  ConstTensorView b;
  bool b_transposed = false;
  TensorView c;
  Write write = Write::replace;
  bool row_independent = false;
};

void multiply(const Context& ctx, const Product& product);

}  // namespace photon::cuda
