#include "model/vanilla_model.hpp"

#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/head_loss.hpp"
#include "model/photon_model.hpp"

namespace photon {
namespace {

TensorView upload_mask(Arena& arena, const Batch& batch) {
  const std::int64_t n = batch.tokens.numel();
  const TensorView mask = arena.allocate(DType::u8, {n});
  if (batch.mask) {
    copy(batch.mask.reshape({n}), mask);
  } else {
    const std::vector<std::uint8_t> ones(static_cast<std::size_t>(n), 1);
    copy(host_view(ones.data(), {n}), mask);
  }
  return mask;
}

TensorView upload_targets(Arena& arena, const Batch& batch) {
  return upload(arena, {batch.tokens.host<std::int32_t>(), static_cast<std::size_t>(batch.tokens.numel())});
}

}  // namespace

VanillaModel::VanillaModel(const ModelConfig& config, Space space, std::int32_t start_token)
    : Model(config, space),
      start_token_(start_token),
      stack_(config.stack, config.dim, config.norm_eps, AttentionKind::stream, "model.", true),
      weights_(stack_.bind(parameters_)),
      embed_(parameters_.view("model.embed_tokens.weight")) {
  PHOTON_EXPECT(start_token >= 0 && start_token < config.vocab_size, "start token {} of a vocabulary of {}",
                start_token, config.vocab_size);
}

TensorView VanillaModel::inputs(Arena& arena, const Batch& batch) const {
  const std::int64_t length = batch.tokens.size(1);
  const auto* const tokens = batch.tokens.host<std::int32_t>();
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch.tokens.numel()));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int64_t>(i) % length == 0 ? start_token_ : tokens[i - 1];
  }
  return upload(arena, ids);
}

LossSums VanillaModel::forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales,
                                        const RecLossOptions&, Parameters& gradients) {
  const std::int64_t b = batch.tokens.size(0);
  const std::int64_t t = batch.tokens.size(1);
  const std::int64_t n = b * t;
  ensure_arena(arena_, ctx.space, training_activation_bytes(config_, b, t), "training activations");
  const ArenaScope scope(arena_);
  const StackTensors gradient_views = stack_.bind(gradients);
  const TensorView embed_gradient = gradients.view("model.embed_tokens.weight");
  const TensorView head_gradient = config_.tie_embeddings ? embed_gradient : gradients.view("lm_head.weight");

  const TensorView ids = inputs(arena_, batch);
  const TensorView targets = upload_targets(arena_, batch);
  const TensorView mask = upload_mask(arena_, batch);
  const TensorView x = arena_.allocate(DType::f32, {b, t, config_.dim});
  const TensorView y = arena_.allocate(DType::f32, {b, t, config_.dim});
  embedding_forward(ctx, embed_, ids, x.reshape({n, config_.dim}));
  const Stack::Saved saved = stack_.forward_saving(ctx, arena_, weights_, x, y);

  const TensorView dy = arena_.allocate(DType::f32, {b, t, config_.dim});
  const TensorView dx = arena_.allocate(DType::f32, {b, t, config_.dim});
  LossSums sums;
  sums.num_tokens = count_tokens(batch);
  sums.ce = head_loss_backward(ctx, y.reshape({n, config_.dim}), head_weight(), targets, mask, scales.ce,
                               dy.reshape({n, config_.dim}), head_gradient);
  stack_.backward(ctx, arena_, weights_, saved, dy, dx, gradient_views);
  embedding_backward(ctx, dx.reshape({n, config_.dim}), ids, embed_gradient);
  return sums;
}

TensorView VanillaModel::run(const Context& ctx, const Batch& batch) {
  const std::int64_t b = batch.tokens.size(0);
  const std::int64_t t = batch.tokens.size(1);
  const std::int64_t n = b * t;
  const std::int64_t bytes = 6 * arena_bytes(n, 4) + 2 * arena_bytes(n * config_.dim, 4) +
                             stack_inference_bytes(config_.stack, config_.dim, AttentionKind::stream, {b, t, t});
  ensure_arena(arena_, ctx.space, bytes, "a forward pass");
  const TensorView x = arena_.allocate(DType::f32, {b, t, config_.dim});
  const TensorView y = arena_.allocate(DType::f32, {b, t, config_.dim});
  embedding_forward(ctx, embed_, inputs(arena_, batch), x.reshape({n, config_.dim}));
  stack_.forward(ctx, arena_, weights_, x, y);
  return y;
}

LossSums VanillaModel::evaluate(const Context& ctx, const Batch& batch, const RecLossOptions&,
                                const TensorView& token_loss, const TensorView& argmax) {
  const ArenaScope scope(arena_);
  const TensorView y = run(ctx, batch);
  const std::int64_t n = batch.tokens.numel();
  LossSums sums;
  sums.num_tokens = count_tokens(batch);
  const TensorView loss = token_loss ? arena_.allocate(DType::f32, {n}) : TensorView();
  const TensorView best = argmax ? arena_.allocate(DType::i32, {n}) : TensorView();
  sums.ce = head_loss_forward(ctx, y.reshape({n, config_.dim}), head_weight(), upload_targets(arena_, batch),
                              upload_mask(arena_, batch), loss, best);
  if (token_loss) copy(loss, token_loss.reshape({n}));
  if (argmax) copy(best, argmax.reshape({n}));
  return sums;
}

Tensor VanillaModel::hidden(const Context& ctx, const Batch& batch) {
  const ArenaScope scope(arena_);
  const TensorView y = run(ctx, batch);
  Tensor out(ctx.space, DType::f32, y.shape(), "hidden states");
  copy_elements(ctx, y, out);
  return out;
}

}  // namespace photon
