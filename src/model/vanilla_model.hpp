// Vanilla: a Llama-style decoder-only Transformer. It reads [start, t_0 .. t_{T-2}], so logits[i] predicts token i
// itself.
#pragma once

#include <vector>

#include "model/vanilla_stage.hpp"

namespace photon {

class VanillaModel : public Model {
 public:
  VanillaModel(const ModelConfig& config, Space space, std::int32_t start_token, DType dtype = DType::f32,
               Masters masters = Masters::all);

  LossSums forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales, const RecLossOptions& rec,
                            Parameters& gradients, Write write) override;
  LossSums evaluate(const Context& ctx, const Batch& batch, const RecLossOptions& rec, const TensorView& token_loss,
                    const TensorView& argmax) override;
  Tensor hidden(const Context& ctx, const Batch& batch) override;

  std::int32_t start_token() const { return stage_.start_token(); }
  Stack& stack() { return stage_.stack(); }
  const VanillaTensors& tensors() const { return tensors_; }

 private:
  std::vector<StackTensors*> stacks() override { return {&tensors_.stack}; }
  // Y(0) [B, T, D] of a pass that saves nothing, and room behind it for the head's losses; in the arena.
  TensorView run(const Context& ctx, const Batch& batch);

  VanillaStage stage_;
  VanillaTensors tensors_;
};

}  // namespace photon
