#include "model/vanilla_model.hpp"

#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/head_loss.hpp"
#include "model/photon_model.hpp"

namespace photon {
namespace {

// Empty where all tokens count.
TensorView upload_mask(const Context& ctx, Arena& arena, const Batch& batch) {
  if (count_tokens(batch) == batch.tokens.numel()) {
    arena.allocate(DType::u8, {batch.tokens.numel()});  // the arena holds the same with a mask and without
    return {};
  }
  return upload(ctx, arena, std::span(batch.mask.host<std::uint8_t>(), static_cast<std::size_t>(batch.tokens.numel())));
}

TensorView upload_targets(const Context& ctx, Arena& arena, const Batch& batch) {
  return upload(ctx, arena,
                std::span(batch.tokens.host<std::int32_t>(), static_cast<std::size_t>(batch.tokens.numel())));
}

}  // namespace

VanillaModel::VanillaModel(const ModelConfig& config, Space space, std::int32_t start_token, DType dtype,
                           Masters masters)
    : Model(config, space, dtype, masters),
      start_token_(start_token),
      stack_(config.stack, config.dim, config.norm_eps, AttentionKind::stream, "model.", true, dtype),
      weights_(stack_.bind(parameters_)),
      embed_(parameters_.working_view("model.embed_tokens.weight")) {
  PHOTON_EXPECT(start_token >= 0 && start_token < config.vocab_size, "start token {} of a vocabulary of {}",
                start_token, config.vocab_size);
}

TensorView VanillaModel::inputs(const Context& ctx, Arena& arena, const Batch& batch) const {
  const std::int64_t length = batch.tokens.size(1);
  const auto* const tokens = batch.tokens.host<std::int32_t>();
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch.tokens.numel()));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int64_t>(i) % length == 0 ? start_token_ : tokens[i - 1];
  }
  return upload(ctx, arena, ids);
}

LossSums VanillaModel::forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales,
                                        const RecLossOptions&, Parameters& gradients, Write write) {
  const std::int64_t b = batch.tokens.size(0);
  const std::int64_t t = batch.tokens.size(1);
  const std::int64_t n = b * t;
  ensure_arena(arena_, ctx.space, training_arena_bytes(config_, b, t, dtype_, options_), "training activations");
  const ArenaScope scope(arena_);
  const StackTensors gradient_views = stack_.bind(gradients);
  const TensorView embed_gradient = gradients.view("model.embed_tokens.weight");
  const TensorView head_gradient = config_.tie_embeddings ? embed_gradient : gradients.view("lm_head.weight");

  const TensorView ids = inputs(ctx, arena_, batch);
  const TensorView targets = upload_targets(ctx, arena_, batch);
  const TensorView mask = upload_mask(ctx, arena_, batch);
  const TensorView x = floats(arena_, {b, t, config_.dim});
  const TensorView y = floats(arena_, {b, t, config_.dim});
  embedding_forward(ctx, embed_, ids, x.reshape({n, config_.dim}));
  const Stack::Saved saved = stack_.forward_saving(ctx, arena_, weights_, x, y, options_);

  const TensorView dy = floats(arena_, {b, t, config_.dim});
  const TensorView dx = floats(arena_, {b, t, config_.dim});
  LossSums sums;
  sums.num_tokens = count_tokens(batch);
  const TensorView states = y.reshape({n, config_.dim});
  const TensorView d_states = dy.reshape({n, config_.dim});
  if (gathered_) {
    add_head_loss_backward(ctx, states, head_weight(), targets, mask, scales.ce, d_states, head_gradient,
                           gathered_.slice(0, 0, 1));
  } else {
    sums.ce = head_loss_backward(ctx, states, head_weight(), targets, mask, scales.ce, d_states, head_gradient);
  }
  stack_.backward(ctx, arena_, weights_, saved, dy, dx, gradient_views, write);
  embedding_backward(ctx, dx.reshape({n, config_.dim}), ids, embed_gradient);
  return sums;
}

TensorView VanillaModel::run(const Context& ctx, const Batch& batch) {
  const std::int64_t b = batch.tokens.size(0);
  const std::int64_t t = batch.tokens.size(1);
  const std::int64_t n = b * t;
  const std::int64_t bytes =
      6 * arena_bytes(n, 4) + 2 * arena_bytes(n * config_.dim, element_bytes(dtype_)) +
      stack_inference_bytes(config_.stack, config_.dim, AttentionKind::stream, {b, t, t}, element_bytes(dtype_));
  ensure_arena(arena_, ctx.space, bytes, "a forward pass");
  const TensorView x = floats(arena_, {b, t, config_.dim});
  const TensorView y = floats(arena_, {b, t, config_.dim});
  embedding_forward(ctx, embed_, inputs(ctx, arena_, batch), x.reshape({n, config_.dim}));
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
  sums.ce = head_loss_forward(ctx, y.reshape({n, config_.dim}), head_weight(), upload_targets(ctx, arena_, batch),
                              upload_mask(ctx, arena_, batch), loss, best);
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
