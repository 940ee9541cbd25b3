// A part of a vanilla model: some of its layers, on whole sequences; the whole model is the part that has them all.
// With the first layer goes the embedding, with the last one the final norm and the head.
#pragma once

#include <vector>

#include "model/photon_stage.hpp"

namespace photon {

struct VanillaTensors {
  TensorView embed;  // [V, D]
  TensorView head;   // [V, D]
  StackTensors stack;
};

class VanillaStage {
 public:
  using Pass = StagePass;

  VanillaStage(const ModelConfig& config, const LayerRange& layers, std::int32_t start_token, DType dtype = DType::f32);

  std::int32_t start_token() const { return start_token_; }
  Stack& stack() { return stack_; }
  VanillaTensors bind(const Parameters& parameters) const;
  // What the first layer's embedding reads, [start, t_0 .. t_{T-2}] of every sequence: [B*T] i32 in the arena.
  TensorView inputs(const Context& ctx, Arena& arena, const Batch& batch) const;
  // As PhotonStage: X(0) is what the first layer reads, Y(0) what the head reads; `in` and `out` [B, T, D].
  Pass begin(const Context& ctx, Arena& arena, const Batch& batch) const;
  void forward(const Context& ctx, Arena& arena, const VanillaTensors& weights, Pass& pass);
  void begin_backward(Arena& arena, Pass& pass) const;
  LossSums backward(const Context& ctx, Arena& arena, const VanillaTensors& weights, const VanillaTensors& gradients,
                    Pass& pass, const LossScales& scales);
  void backward_weights(const Context& ctx, Arena& arena, const VanillaTensors& weights,
                        const VanillaTensors& gradients, const Pass& pass) const;
  LossSums losses(const Context& ctx, const VanillaTensors& weights, const Pass& pass) const;

 private:
  ModelConfig config_;
  StackPart part_;
  DType dtype_;
  std::int32_t start_token_;
  Stack stack_;
};

}  // namespace photon
