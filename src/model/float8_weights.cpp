#include "model/float8_weights.hpp"

#include <utility>

namespace photon {
namespace {

using Member = std::pair<TensorView LayerTensors::*, Quantized LayerTensors::*>;
constexpr Member members[] = {{&LayerTensors::qkv, &LayerTensors::qkv8},
                              {&LayerTensors::o, &LayerTensors::o8},
                              {&LayerTensors::gate_up, &LayerTensors::gate_up8},
                              {&LayerTensors::down, &LayerTensors::down8}};
constexpr std::int64_t scale_stride = 4;  // floats: cuBLASLt asks for scales at multiples of 16 bytes

}  // namespace

Float8Weights::Float8Weights(const std::vector<StackTensors*>& stacks) {
  std::int64_t elements = 0;
  std::vector<std::pair<TensorView, Quantized*>> matrices;
  for (StackTensors* const stack : stacks) {
    for (LayerTensors& layer : stack->layers) {
      for (const auto& [matrix, copy] : members) {
        const TensorView& from = layer.*matrix;
        if (!quantizable(from.size(0), from.size(1))) continue;
        matrices.emplace_back(from, &(layer.*copy));
        elements += from.numel();
      }
    }
  }
  if (matrices.empty()) return;
  memory_ = Tensor(Space::device, DType::u8, {2 * elements}, "the weights in 8-bit floats");
  scales_ = Tensor(Space::device, DType::f32, {static_cast<std::int64_t>(matrices.size()), scale_stride},
                   "the scales of the weights in 8-bit floats");
  std::int64_t used = 0;
  for (const auto& [from, to] : matrices) {
    const auto take = [&](const Shape& shape) {
      const TensorView view = memory_.view().slice(0, used, from.numel()).reshape(shape);
      used += from.numel();
      return view;
    };
    to->format = Float8::e4m3;
    to->values = take(from.shape());
    to->transposed = take({from.size(1), from.size(0)});
    to->scale = scales_.view().slice(0, static_cast<std::int64_t>(copies_.size()), 1).slice(1, 0, 1).reshape({1});
    copies_.push_back({from, *to});
  }
}

void Float8Weights::refresh(const Context& ctx) {
  for (const Copy& copy : copies_) quantize(ctx, copy.from, copy.to);
}

}  // namespace photon
