#include "model/photon_model.hpp"

#include <algorithm>

#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/group_rows.hpp"
#include "kernels/head_loss.hpp"
#include "kernels/linear.hpp"

namespace photon {

PhotonModel::PhotonModel(const ModelConfig& config, Space space, DType dtype, Masters masters)
    : Model(config, space, dtype, masters), stage_(config, all_layers(config), dtype), tensors_(bind(parameters_)) {}

LossSums PhotonModel::forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales,
                                       const RecLossOptions& rec, Parameters& gradients, Write write) {
  ensure_arena(arena_, ctx.space,
               training_arena_bytes(config_, batch.tokens.size(0), batch.tokens.size(1), dtype_, options_),
               "training activations");
  const ArenaScope scope(arena_);
  PhotonStage::Pass pass = stage_.begin(ctx, arena_, batch, all_groups(config_, batch));
  pass.options = options_;
  pass.losses = gathered_;
  pass.write = write;
  stage_.forward(ctx, arena_, tensors_, pass);
  stage_.begin_backward(ctx, arena_, pass);
  return stage_.backward(ctx, arena_, tensors_, bind(gradients), pass, scales, rec);
}

// A teacher-forced pass that saves nothing; views into the model's arena.
struct PhotonModel::Pass {
  GroupBatch shape;
  PaddedTokens tokens;
  std::vector<TensorView> x;  // X(l) [B, M_l, D_l], l = 0 .. L
  std::vector<TensorView> y;  // Y(l), l = 0 .. L-1
};

std::int64_t PhotonModel::decode_groups_bytes(std::int64_t l, std::int64_t groups) const {
  const LevelConfig& c = config_.levels[static_cast<std::size_t>(l - 1)];
  const std::int64_t below = config_.width(l - 1);
  const StackShape shape{groups, config_.decoder_positions(l), c.chunk};
  const std::int64_t element = element_bytes(dtype_);
  return arena_bytes(shape.rows() * below, element) + arena_bytes(groups * c.prefix * below, element) +
         stack_inference_bytes(c.decoder, below, AttentionKind::group, shape, element);
}

void PhotonModel::decode_groups(const Context& ctx, Arena& arena, std::int64_t l, const ConstTensorView& c,
                                const ConstTensorView& content, const TensorView& y) {
  const ArenaScope scope(arena);
  const LevelTensors& w = tensors_.levels[static_cast<std::size_t>(l - 1)];
  const std::int64_t groups = c.size(0);
  const std::int64_t below = config_.width(l - 1);
  const std::int64_t prefix = config_.levels[static_cast<std::size_t>(l - 1)].prefix;
  const TensorView in = floats(arena, {groups, config_.decoder_positions(l), below});
  const TensorView u = floats(arena, {groups, prefix * below});
  linear_forward(ctx, c, w.converter, u);
  decoder_rows_forward(ctx, u.split(1, prefix), content, config_.level_lookback(l), in);
  level(l).decoder.forward(ctx, arena, w.decoder, in, y);
}

std::int64_t PhotonModel::inference_bytes(std::int64_t batch, std::int64_t tokens) const {
  const std::int64_t length = config_.padded_length(tokens);
  const std::int64_t n = batch * length;
  std::int64_t kept = 4 * arena_bytes(n, 4);  // ids, mask, token losses, argmax
  std::int64_t scratch = 0;
  const std::int64_t element = element_bytes(dtype_);
  for (std::int64_t l = 0; l <= config_.num_levels(); ++l) {
    // X(l), Y(l) (or c(L)), the chunker's output and a mask of units.
    kept += 4 * arena_bytes(batch * (length / config_.cumulative_chunk(l)) * config_.width(l), element);
    if (l == 0) continue;
    const LevelConfig& c = config_.levels[static_cast<std::size_t>(l - 1)];
    const std::int64_t units = length / config_.cumulative_chunk(l);
    scratch =
        std::max({scratch, decode_groups_bytes(l, batch * units),
                  stack_inference_bytes(c.encoder, c.dim, AttentionKind::stream, {batch, units, units}, element)});
  }
  return kept + scratch;
}

PhotonModel::Pass PhotonModel::run(const Context& ctx, const Batch& batch) {
  ensure_arena(arena_, ctx.space, inference_bytes(batch.tokens.size(0), batch.tokens.size(1)), "a forward pass");
  const std::int64_t num_levels = config_.num_levels();
  const auto at = [](std::int64_t l) { return static_cast<std::size_t>(l); };
  Pass pass;
  pass.shape = group_batch(config_, batch, all_groups(config_, batch));
  pass.tokens = pad_tokens(ctx, arena_, batch, pass.shape, config_);
  pass.x.resize(at(num_levels + 1));
  pass.y.resize(at(num_levels));
  const GroupBatch& p = pass.shape;
  pass.x[0] = floats(arena_, {p.batch, p.length, config_.dim});
  embedding_forward(ctx, tensors_.embed, pass.tokens.ids, rows(pass.x[0]));
  for (std::int64_t l = 1; l <= num_levels; ++l) {
    const LevelTensors& w = tensors_.levels[at(l - 1)];
    const std::int64_t units = p.length / config_.cumulative_chunk(l);
    pass.x[at(l)] = floats(arena_, {p.batch, units, config_.width(l)});
    const TensorView a = floats(arena_, pass.x[at(l)].shape());
    linear_forward(ctx, pass.x[at(l - 1)].reshape({p.batch * units, w.chunker.size(1)}), w.chunker, rows(a));
    level(l).encoder.forward(ctx, arena_, w.encoder, a, pass.x[at(l)]);
  }
  const TensorView top = floats(arena_, pass.x[at(num_levels)].shape());
  shift_forward(ctx, pass.x[at(num_levels)], tensors_.start_latent, top);
  for (std::int64_t l = num_levels; l >= 1; --l) {
    const std::int64_t chunk = config_.levels[at(l - 1)].chunk;
    const TensorView c = rows(l == num_levels ? top : pass.y[at(l)]);
    pass.y[at(l - 1)] = floats(arena_, pass.x[at(l - 1)].shape());
    decode_groups(ctx, arena_, l, c, pass.x[at(l - 1)],
                  pass.y[at(l - 1)].reshape({c.size(0), chunk, config_.width(l - 1)}));
  }
  return pass;
}

LossSums PhotonModel::evaluate(const Context& ctx, const Batch& batch, const RecLossOptions& rec,
                               const TensorView& token_loss, const TensorView& argmax) {
  const ArenaScope scope(arena_);
  const Pass pass = run(ctx, batch);
  const GroupBatch& p = pass.shape;
  LossSums sums;
  sums.num_tokens = pass.tokens.num_counted;
  sums.num_units = unpadded_units(config_, p.batch, p.tokens);
  const TensorView loss = token_loss ? arena_.allocate(DType::f32, {p.batch, p.length}) : TensorView();
  const TensorView best = argmax ? arena_.allocate(DType::i32, {p.batch, p.length}) : TensorView();
  const std::int64_t n = p.batch * p.length;
  sums.ce = head_loss_forward(ctx, rows(pass.y[0]), tensors_.head, pass.tokens.ids, pass.tokens.mask,
                              loss ? loss.reshape({n}) : loss, best ? best.reshape({n}) : best);
  if (token_loss) copy(ctx.stream, loss.slice(1, 0, p.tokens), token_loss);
  if (argmax) copy(ctx.stream, best.slice(1, 0, p.tokens), argmax);
  for (std::int64_t l = 1; l < config_.num_levels(); ++l) {
    const ArenaScope mask_scope(arena_);
    const TensorView mask = whole_units(ctx, arena_, config_, l, p).mask;
    const auto i = static_cast<std::size_t>(l);
    sums.rec.push_back(rec_loss_forward(ctx, rec.distance, rows(pass.y[i]), rows(pass.x[i]), mask));
  }
  return sums;
}

Tensor PhotonModel::hidden(const Context& ctx, const Batch& batch) {
  const ArenaScope scope(arena_);
  const Pass pass = run(ctx, batch);
  Tensor out(ctx.space, dtype_, {pass.shape.batch, pass.shape.tokens, config_.dim}, "hidden states");
  copy_elements(ctx, pass.y[0].slice(1, 0, pass.shape.tokens), out);
  return out;
}

PhotonModel::States PhotonModel::states(const Context& ctx, const Batch& batch) {
  const ArenaScope scope(arena_);
  const Pass pass = run(ctx, batch);
  States states;
  const auto keep = [&](const TensorView& view) {
    Tensor tensor(ctx.space, dtype_, view.shape(), "states");
    copy_elements(ctx, view, tensor);
    return tensor;
  };
  for (const TensorView& x : pass.x) states.x.push_back(keep(x));
  for (const TensorView& y : pass.y) states.y.push_back(keep(y));
  return states;
}

}  // namespace photon
