// PHOTON: encoders fold tokens into units level by level, local decoders render them back (docs/model.md).
#pragma once

#include <vector>

#include "model/photon_stage.hpp"

namespace photon {

class PhotonModel : public Model {
 public:
  PhotonModel(const ModelConfig& config, Space space, DType dtype = DType::f32, Masters masters = Masters::all);

  LossSums forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales, const RecLossOptions& rec,
                            Parameters& gradients, Write write) override;
  LossSums evaluate(const Context& ctx, const Batch& batch, const RecLossOptions& rec, const TensorView& token_loss,
                    const TensorView& argmax) override;
  Tensor hidden(const Context& ctx, const Batch& batch) override;

  // States of a teacher-forced pass: X(l) [B, M_l, D_l] for l = 0 .. L and Y(l) for l = 0 .. L-1, padded length.
  struct States {
    std::vector<Tensor> x;
    std::vector<Tensor> y;
  };
  States states(const Context& ctx, const Batch& batch);

  // What the incremental decoder and RecGen's likelihood are made of. Shapes as in the names above; G groups.
  LevelModules& level(std::int64_t l) { return stage_.level(l); }
  const PhotonTensors& tensors() const { return tensors_; }
  PhotonTensors bind(const Parameters& parameters) const { return stage_.bind(parameters); }
  // The level-l decoder over whole groups, without saving: c [G, D_l], content [B, M C_l, D_{l-1}] with G = B M ->
  // y [G, C_l, D_{l-1}]. Scratch comes from `arena`.
  void decode_groups(const Context& ctx, Arena& arena, std::int64_t l, const ConstTensorView& c,
                     const ConstTensorView& content, const TensorView& y);
  std::int64_t decode_groups_bytes(std::int64_t l, std::int64_t groups) const;

 private:
  std::vector<StackTensors*> stacks() override { return stacks_of(tensors_); }
  // The teacher-forced pass without saving; arena memory.
  struct Pass;
  // Room for activations.
  TensorView floats(Arena& arena, const Shape& shape) const { return arena.allocate(dtype_, shape); }
  Pass run(const Context& ctx, const Batch& batch);
  std::int64_t inference_bytes(std::int64_t batch, std::int64_t tokens) const;

  PhotonStage stage_;
  PhotonTensors tensors_;
};

}  // namespace photon
