// Vanilla: a Llama-style decoder-only Transformer. It reads [start, t_0 .. t_{T-2}], so logits[i] predicts token i
// itself.
#pragma once

#include "model/model.hpp"
#include "model/stack.hpp"

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
  std::int64_t arena_peak() const override { return arena_.peak(); }

  std::int32_t start_token() const { return start_token_; }
  Stack& stack() { return stack_; }
  const StackTensors& weights() const { return weights_; }
  TensorView embedding() const { return embed_; }

 private:
  std::vector<StackTensors*> stacks() override { return {&weights_}; }
  // [start, t_0 .. t_{T-2}] of every sequence, [B*T] i32.
  TensorView inputs(const Context& ctx, Arena& arena, const Batch& batch) const;
  // Room for activations.
  TensorView floats(Arena& arena, const Shape& shape) const { return arena.allocate(dtype_, shape); }
  TensorView run(const Context& ctx, const Batch& batch);

  std::int32_t start_token_;
  Stack stack_;
  StackTensors weights_;
  TensorView embed_;
  Arena arena_;
};

}  // namespace photon
