#include "model/vanilla_model.hpp"

#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/head_loss.hpp"

namespace photon {

VanillaModel::VanillaModel(const ModelConfig& config, Space space, std::int32_t start_token, DType dtype,
                           Masters masters)
    : Model(config, space, dtype, masters),
      stage_(config, all_layers(config), start_token, dtype),
      tensors_(stage_.bind(parameters_)) {}

LossSums VanillaModel::forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales,
                                        const RecLossOptions&, Parameters& gradients, Write write) {
  ensure_arena(arena_, ctx.space,
               training_arena_bytes(config_, batch.tokens.size(0), batch.tokens.size(1), dtype_, options_),
               "training activations");
  const ArenaScope scope(arena_);
  StagePass pass = stage_.begin(ctx, arena_, batch);
  pass.options = options_;
  pass.losses = gathered_;
  pass.write = write;
  stage_.forward(ctx, arena_, tensors_, pass);
  stage_.begin_backward(arena_, pass);
  return stage_.backward(ctx, arena_, tensors_, stage_.bind(gradients), pass, scales);
}

TensorView VanillaModel::run(const Context& ctx, const Batch& batch) {
  const std::int64_t b = batch.tokens.size(0);
  const std::int64_t t = batch.tokens.size(1);
  const Shape shape{b, t, config_.dim};
  const std::int64_t bytes =
      5 * arena_bytes(b * t, 4) + 2 * arena_bytes(b * t * config_.dim, element_bytes(dtype_)) +
      stack_inference_bytes(config_.stack, config_.dim, AttentionKind::stream, {b, t, t}, element_bytes(dtype_));
  ensure_arena(arena_, ctx.space, bytes, "a forward pass");
  const TensorView x = arena_.allocate(dtype_, shape);
  const TensorView y = arena_.allocate(dtype_, shape);
  embedding_forward(ctx, tensors_.embed, stage_.inputs(ctx, arena_, batch), rows(x));
  stage_.stack().forward(ctx, arena_, tensors_.stack, x, y);
  return y;
}

LossSums VanillaModel::evaluate(const Context& ctx, const Batch& batch, const RecLossOptions&,
                                const TensorView& token_loss, const TensorView& argmax) {
  const ArenaScope scope(arena_);
  const TensorView y = run(ctx, batch);
  const PaddedTokens tokens =
      pad_tokens(ctx, arena_, batch, group_batch(config_, batch, all_groups(config_, batch)), config_);
  const std::int64_t n = batch.tokens.numel();
  const TensorView loss = token_loss ? arena_.allocate(DType::f32, {n}) : TensorView();
  const TensorView best = argmax ? arena_.allocate(DType::i32, {n}) : TensorView();
  LossSums sums;
  sums.num_tokens = tokens.num_counted;
  sums.ce = head_loss_forward(ctx, rows(y), tensors_.head, tokens.ids, tokens.mask, loss, best);
  if (token_loss) copy(ctx.stream, loss, token_loss.reshape({n}));
  if (argmax) copy(ctx.stream, best, argmax.reshape({n}));
  return sums;
}

Tensor VanillaModel::hidden(const Context& ctx, const Batch& batch) {
  const ArenaScope scope(arena_);
  const TensorView y = run(ctx, batch);
  Tensor out(ctx.space, dtype_, y.shape(), "hidden states");
  copy_elements(ctx, y, out);
  return out;
}

}  // namespace photon
