// The weights of layers in 8-bit floats, for passes whose products are computed in them.
#pragma once

#include <vector>

#include "model/stack.hpp"

namespace photon {

class Float8Weights {
 public:
  // Room for copies of these stacks' matrices, to which their tensors then point (LayerTensors::qkv8 and so on). Those
  // whose dims are no multiples of 16 get none.
  explicit Float8Weights(const std::vector<StackTensors*>& stacks);

  // Fills the copies from the matrices, in the order of the context's stream. For whenever those have changed.
  void refresh(const Context& ctx);

 private:
  struct Copy {
    ConstTensorView from;
    Quantized to;
  };
  std::vector<Copy> copies_;
  Tensor memory_;
  Tensor scales_;
};

}  // namespace photon
