// Matrix products by cuBLASLt. The algorithm is chosen once for each class of shapes: in tuned mode by measurement
// (product_choices.hpp), in deterministic mode by the library's first heuristic, which is a fixed function of the
// shape.
#pragma once

#include "kernels/linear.hpp"
#include "kernels/quantize.hpp"
#include "tensor/context.hpp"

namespace photon::cuda {

// A row-major matrix product c = a b (+ added): a [M, K] or transposed [K, M], b [K, N] or transposed [N, K], c [M, N];
// rows may be strided. `added` is of c's shape and dtype, or c itself, or empty. a and b share a dtype (f32 or bf16), c
// is f32 or that; sums are float32, never tf32. row_independent: the algorithm is chosen without looking at M, so that
// the bits of a row of c do not depend on how many rows stand beside it; nothing is measured then.
struct Product {
  ConstTensorView a;
  bool a_transposed = false;
  ConstTensorView b;
  bool b_transposed = false;
  TensorView c;
  ConstTensorView added = {};
  bool row_independent = false;
};

// What a product that writes like this adds to.
inline ConstTensorView added_by(Write write, const TensorView& c) {
  return write == Write::accumulate ? ConstTensorView(c) : ConstTensorView();
}

void multiply(const Context& ctx, const Product& product);

// c = (a b^T) * a_scale * b_scale (+ added) of 8-bit floats: a u8 [M, K], b u8 [N, K], c bf16 or f32 [M, N]; K a
// multiple of 16, rows and scales 16-byte aligned. The scales are f32 [1] on the device. At most one operand is e5m2.
// `fast` lets the tensor cores keep fewer bits between partial sums: good enough for a forward pass. Needs sm_89 or
// later.
struct Product8 {
  ConstTensorView a;
  Float8 a_format = Float8::e4m3;
  ConstTensorView a_scale;
  ConstTensorView b;
  Float8 b_format = Float8::e4m3;
  ConstTensorView b_scale;
  TensorView c;
  ConstTensorView added = {};
  bool fast = false;
};

void multiply(const Context& ctx, const Product8& product);

}  // namespace photon::cuda
