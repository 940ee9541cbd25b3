#include "model/vanilla_stage.hpp"

#include "kernels/embedding.hpp"
#include "kernels/head_loss.hpp"

namespace photon {

VanillaStage::VanillaStage(const ModelConfig& config, const LayerRange& layers, std::int32_t start_token, DType dtype)
    : config_(config),
      part_(part_of(config, layers, 0)),
      dtype_(dtype),
      start_token_(start_token),
      stack_(config.stack, part_, config.dim, config.norm_eps, AttentionKind::stream, "model.", true, dtype) {
  PHOTON_EXPECT(start_token >= 0 && start_token < config.vocab_size, "start token {} of a vocabulary of {}",
                start_token, config.vocab_size);
}

VanillaTensors VanillaStage::bind(const Parameters& parameters) const {
  VanillaTensors t;
  if (part_.starts() || (part_.ends() && config_.tie_embeddings))
    t.embed = parameters.working_view(embedding_name(config_));
  if (part_.ends()) t.head = config_.tie_embeddings ? t.embed : parameters.working_view("lm_head.weight");
  t.stack = stack_.bind(parameters);
  return t;
}

TensorView VanillaStage::inputs(const Context& ctx, Arena& arena, const Batch& batch) const {
  const std::int64_t length = batch.tokens.size(1);
  const auto* const tokens = batch.tokens.host<std::int32_t>();
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch.tokens.numel()));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int64_t>(i) % length == 0 ? start_token_ : tokens[i - 1];
  }
  return upload(ctx, arena, ids);
}

StagePass VanillaStage::begin(const Context& ctx, Arena& arena, const Batch& batch) const {
  Pass pass;
  pass.shape = group_batch(config_, batch, all_groups(config_, batch));
  pass.x.resize(1);
  pass.y.resize(1);
  const Shape stream{pass.shape.batch, pass.shape.length, config_.dim};
  if (part_.starts()) pass.inputs = inputs(ctx, arena, batch);
  if (part_.ends()) pass.tokens = pad_tokens(ctx, arena, batch, pass.shape, config_);
  (part_.starts() ? pass.x[0] : pass.in) = arena.allocate(dtype_, stream);
  (part_.ends() ? pass.y[0] : pass.out) = arena.allocate(dtype_, stream);
  pass.encoder_saved.resize(1);
  return pass;
}

void VanillaStage::forward(const Context& ctx, Arena& arena, const VanillaTensors& weights, Pass& pass) {
  if (part_.starts()) embedding_forward(ctx, weights.embed, pass.inputs, rows(pass.x[0]));
  pass.encoder_saved[0] = stack_.forward_saving(ctx, arena, weights.stack, part_.starts() ? pass.x[0] : pass.in,
                                                part_.ends() ? pass.y[0] : pass.out, pass.options);
}

void VanillaStage::begin_backward(Arena& arena, Pass& pass) const {
  pass.dx.resize(1);
  pass.dy.resize(1);
  const Shape stream{pass.shape.batch, pass.shape.length, config_.dim};
  (part_.ends() ? pass.dy[0] : pass.dout) = arena.allocate(dtype_, stream);
  (part_.starts() ? pass.dx[0] : pass.din) = arena.allocate(dtype_, stream);
  stack_.keep_operands(arena, pass.encoder_saved[0]);
}

LossSums VanillaStage::backward(const Context& ctx, Arena& arena, const VanillaTensors& weights,
                                const VanillaTensors& gradients, Pass& pass, const LossScales& scales) {
  LossSums sums;
  if (part_.ends()) {
    sums.num_tokens = pass.tokens.num_counted;
    sums.ce = head_backward(ctx, pass, weights.head, scales.ce, gradients.head);
  }
  stack_.backward(ctx, arena, weights.stack, pass.encoder_saved[0], part_.ends() ? pass.dy[0] : pass.dout,
                  part_.starts() ? pass.dx[0] : pass.din, gradients.stack, pass.write);
  if (part_.starts()) embedding_backward(ctx, rows(pass.dx[0]), pass.inputs, gradients.embed);
  return sums;
}

void VanillaStage::backward_weights(const Context& ctx, Arena& arena, const VanillaTensors& weights,
                                    const VanillaTensors& gradients, const Pass& pass) const {
  stack_.backward_weights(ctx, arena, weights.stack, pass.encoder_saved[0], gradients.stack, pass.write);
}

LossSums VanillaStage::losses(const Context& ctx, const VanillaTensors& weights, const Pass& pass) const {
  LossSums sums;
  if (!part_.ends()) return sums;
  sums.num_tokens = pass.tokens.num_counted;
  sums.ce = head_loss_forward(ctx, rows(pass.y[0]), weights.head, pass.tokens.ids, pass.tokens.mask, {}, {});
  return sums;
}

}  // namespace photon
