#include "model/layer_product.hpp"

#include "kernels/linear8.hpp"

namespace photon {

Quantized allocate_product_input(Arena& arena, const PassOptions& options, std::int64_t rows, std::int64_t outputs,
                                 std::int64_t inputs, bool backward_follows) {
  Quantized kept;
  if (!product_in_fp8(options, rows, outputs, inputs)) return kept;
  if (backward_follows) kept.transposed = arena.allocate(DType::u8, {inputs, rows});
  kept.scale = arena.allocate(DType::f32, {1});
  return kept;
}

void product_forward(const Context& ctx, Arena& arena, const ConstTensorView& x, const LayerWeight& weight,
                     const Quantized& kept, const TensorView& y, const ConstTensorView& largest,
                     const ConstTensorView& added) {
  if (!kept) return linear_forward(ctx, x, weight.matrix, y, added);
  PHOTON_EXPECT(weight.eight, "a product of 8-bit floats with a weight {} that has no copy in them",
                weight.matrix.shape().str());
  const ArenaScope scope(arena);
  Quantized copies = kept;
  copies.values = arena.allocate(DType::u8, x.shape());
  quantize(ctx, x, copies, largest);
  linear8_forward(ctx, copies, weight.eight, y, added);
}

void product_backward(const Context& ctx, Arena& arena, const ConstTensorView& dy, const ConstTensorView& x,
                      const LayerWeight& weight, const Quantized& kept, const TensorView& dw, const TensorView& dx,
                      Write write, const ConstTensorView& largest) {
  if (!kept) {
    if (dw) linear_backward_weight(ctx, dy, x, dw, write);
    if (dx) linear_backward_input(ctx, dy, weight.matrix, dx);
    return;
  }
  const ArenaScope scope(arena);
  const std::int64_t rows = dy.size(0);
  const std::int64_t outputs = dy.size(1);
  Quantized copies{Float8::e5m2};
  if (dx) copies.values = arena.allocate(DType::u8, {rows, outputs});
  if (dw) copies.transposed = arena.allocate(DType::u8, {outputs, rows});
  copies.scale = arena.allocate(DType::f32, {1});
  quantize(ctx, dy, copies, largest);
  if (dw) linear8_backward_weight(ctx, copies, kept, dw, write);
  if (dx) linear8_backward_input(ctx, copies, weight.eight, dx);
}

}  // namespace photon
