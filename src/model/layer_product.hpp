// A matrix product of a layer with its gradients, in the operands' own type or in 8-bit floats.
#pragma once

#include "blueprint/activations.hpp"
#include "kernels/linear.hpp"
#include "kernels/quantize.hpp"
#include "tensor/context.hpp"

namespace photon {

// W [O, K], and its copy in 8-bit floats where there is one.
struct LayerWeight {
  TensorView matrix;
  Quantized eight;

  LayerWeight rows(std::int64_t begin, std::int64_t count) const {
    return {matrix.slice(0, begin, count), eight ? eight.rows(begin, count) : eight};
  }
};

// Room for what product_forward() keeps of x [rows, inputs] for product_backward(); its scale alone unless a backward
// follows. Empty where the product is not computed in 8-bit floats (product_in_fp8).
Quantized allocate_product_input(Arena& arena, const PassOptions& options, std::int64_t rows, std::int64_t outputs,
                                 std::int64_t inputs, bool backward_follows);

// y = x W^T, in 8-bit floats where `kept` is not empty, added to `added` (linear_forward()). Scratch from `arena`.
// `largest`: as quantize() takes it, of x.
void product_forward(const Context& ctx, Arena& arena, const ConstTensorView& x, const LayerWeight& weight,
                     const Quantized& kept, const TensorView& y, const ConstTensorView& largest = {},
                     const ConstTensorView& added = {});

// dw (+)= dy^T x, as `write` says, unless dw is empty; dx = dy W unless dx is. x is read for dw where `kept` is empty,
// and may be dx. `largest` of dy.
void product_backward(const Context& ctx, Arena& arena, const ConstTensorView& dy, const ConstTensorView& x,
                      const LayerWeight& weight, const Quantized& kept, const TensorView& dw, const TensorView& dx,
                      Write write, const ConstTensorView& largest = {});

}  // namespace photon
