// The product of one bf16 row with a weight, as one step of decoding a single text makes it: bound by reading the
// weight.
#pragma once

#include "kernels/linear.hpp"
#include "tensor/context.hpp"

namespace photon::cuda {

// Whether y = x w^T (linear.hpp) is such a product: bf16 x [1, K] and w [O, K], K a multiple of 8, rows 16-byte
// aligned.
bool gemv_fits(const ConstTensorView& x, const ConstTensorView& w, const TensorView& y);

// y = added + x w^T, or without where that is empty (it may be y), in float32 sums of one fixed order; the weight is
// read once.
void gemv_forward(const Context& ctx, const ConstTensorView& x, const ConstTensorView& w, const TensorView& y,
                  const ConstTensorView& added);

}  // namespace photon::cuda
