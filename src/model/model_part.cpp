#include "model/model_part.hpp"

#include "model/float8_weights.hpp"
#include "model/vanilla_stage.hpp"

namespace photon {
namespace {

class PhotonPart : public ModelPart {
 public:
  PhotonPart(const ModelConfig& config, const LayerRange& layers, const Parameters& weights, DType dtype,
             const PassOptions& options)
      : stage_(config, layers, dtype), weights_(stage_.bind(weights)), options_(options) {
    if (options.fp8) float8_.emplace(stacks_of(weights_));
  }

  void weights_changed(const Context& ctx) override {
    if (float8_) float8_->refresh(ctx);
  }

  StagePass begin(const Context& ctx, Arena& arena, const Batch& batch, const GroupRange& groups) const override {
    StagePass pass = stage_.begin(ctx, arena, batch, groups);
    pass.options = options_;
    return pass;
  }
  void forward(const Context& ctx, Arena& arena, StagePass& pass) override {
    stage_.forward(ctx, arena, weights_, pass);
  }
  void begin_backward(const Context& ctx, Arena& arena, StagePass& pass) const override {
    stage_.begin_backward(ctx, arena, pass);
  }
  LossSums backward(const Context& ctx, Arena& arena, Parameters& gradients, StagePass& pass, std::int64_t module,
                    const LossScales& scales, const RecLossOptions& rec) override {
    return stage_.backward_module(ctx, arena, weights_, stage_.bind(gradients), pass, module, scales, rec);
  }
  void backward_weights(const Context& ctx, Arena& arena, Parameters& gradients, const StagePass& pass,
                        std::int64_t module) override {
    stage_.backward_weights(ctx, arena, weights_, stage_.bind(gradients), pass, module);
  }
  LossSums losses(const Context& ctx, Arena& arena, const StagePass& pass, const RecLossOptions& rec) const override {
    return stage_.losses(ctx, arena, weights_, pass, rec);
  }

 private:
  PhotonStage stage_;
  PhotonTensors weights_;
  std::optional<Float8Weights> float8_;
  PassOptions options_;
};

class VanillaPart : public ModelPart {
 public:
  VanillaPart(const ModelConfig& config, const LayerRange& layers, const Parameters& weights, std::int32_t start_token,
              DType dtype, const PassOptions& options)
      : stage_(config, layers, start_token, dtype), weights_(stage_.bind(weights)), options_(options) {
    if (options.fp8) float8_.emplace(std::vector<StackTensors*>{&weights_.stack});
  }

  void weights_changed(const Context& ctx) override {
    if (float8_) float8_->refresh(ctx);
  }

  StagePass begin(const Context& ctx, Arena& arena, const Batch& batch, const GroupRange& groups) const override {
    PHOTON_EXPECT(groups.begin == 0 && groups.count == batch.tokens.numel(), "a vanilla model takes whole sequences");
    StagePass pass = stage_.begin(ctx, arena, batch);
    pass.options = options_;
    return pass;
  }
  void forward(const Context& ctx, Arena& arena, StagePass& pass) override {
    stage_.forward(ctx, arena, weights_, pass);
  }
  void begin_backward(const Context&, Arena& arena, StagePass& pass) const override {
    stage_.begin_backward(arena, pass);
  }
  LossSums backward(const Context& ctx, Arena& arena, Parameters& gradients, StagePass& pass, std::int64_t,
                    const LossScales& scales, const RecLossOptions&) override {
    return stage_.backward(ctx, arena, weights_, stage_.bind(gradients), pass, scales);
  }
  void backward_weights(const Context& ctx, Arena& arena, Parameters& gradients, const StagePass& pass,
                        std::int64_t) override {
    stage_.backward_weights(ctx, arena, weights_, stage_.bind(gradients), pass);
  }
  LossSums losses(const Context& ctx, Arena&, const StagePass& pass, const RecLossOptions&) const override {
    return stage_.losses(ctx, weights_, pass);
  }

 private:
  VanillaStage stage_;
  VanillaTensors weights_;
  std::optional<Float8Weights> float8_;
  PassOptions options_;
};

}  // namespace

std::unique_ptr<ModelPart> make_model_part(const ModelConfig& config, const LayerRange& layers,
                                           const Parameters& weights, std::int32_t start_token, DType dtype,
                                           const PassOptions& options) {
  if (config.type == ModelType::vanilla) {
    return std::make_unique<VanillaPart>(config, layers, weights, start_token, dtype, options);
  }
  return std::make_unique<PhotonPart>(config, layers, weights, dtype, options);
}

}  // namespace photon
