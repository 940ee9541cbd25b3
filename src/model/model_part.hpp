// A part of any model behind one interface, as one rank of several runs it: PhotonStage or VanillaStage with their
// weights bound.
#pragma once

#include <memory>

#include "model/photon_stage.hpp"

namespace photon {

class ModelPart {
 public:
  virtual ~ModelPart() = default;

  // As Model::weights_changed().
  virtual void weights_changed(const Context& ctx) = 0;

  // In this order, as PhotonStage has them; vanilla parts take all groups.
  virtual StagePass begin(const Context& ctx, Arena& arena, const Batch& batch, const GroupRange& groups) const = 0;
  virtual void forward(const Context& ctx, Arena& arena, StagePass& pass) = 0;
  virtual void begin_backward(const Context& ctx, Arena& arena, StagePass& pass) const = 0;
  // Of the hosted layers of one module; modules in descending order. `gradients` are laid out as the weights.
  virtual LossSums backward(const Context& ctx, Arena& arena, Parameters& gradients, StagePass& pass,
                            std::int64_t module, const LossScales& scales, const RecLossOptions& rec) = 0;
  // With options.split_backward: what backward() left of a module, at any time behind it.
  virtual void backward_weights(const Context& ctx, Arena& arena, Parameters& gradients, const StagePass& pass,
                                std::int64_t module) = 0;
  virtual LossSums losses(const Context& ctx, Arena& arena, const StagePass& pass, const RecLossOptions& rec) const = 0;
};

// `weights` hold hosted_parameters(config, layers) and outlive the part. `start_token`: as make_model(). Passes have
// `options`.
std::unique_ptr<ModelPart> make_model_part(const ModelConfig& config, const LayerRange& layers,
                                           const Parameters& weights, std::int32_t start_token,
                                           DType dtype = DType::f32, const PassOptions& options = {});

}  // namespace photon
