#include "model/photon_stage.hpp"

#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/group_rows.hpp"
#include "kernels/head_loss.hpp"
#include "kernels/linear.hpp"
#include "model/photon_model.hpp"

namespace photon {
namespace {

std::size_t at(std::int64_t l) {
  return static_cast<std::size_t>(l);
}

// A mask, or its room alone where `all` count: the arena holds the same either way.
TensorView upload_unless(bool all, const Context& ctx, Arena& arena, std::span<const std::uint8_t> mask) {
  if (!all) return upload(ctx, arena, mask);
  arena.allocate(DType::u8, {static_cast<std::int64_t>(mask.size())});
  return {};
}

}  // namespace

double head_backward(const Context& ctx, const StagePass& pass, const TensorView& weight, double scale,
                     const TensorView& gradient) {
  const TensorView y = rows(pass.y[0]);
  const TensorView dy = rows(pass.dy[0]);
  if (!pass.losses) {
    return head_loss_backward(ctx, y, weight, pass.tokens.ids, pass.tokens.mask, scale, dy, gradient);
  }
  add_head_loss_backward(ctx, y, weight, pass.tokens.ids, pass.tokens.mask, scale, dy, gradient,
                         pass.losses.slice(0, 0, 1));
  return 0;
}

GroupRange all_groups(const ModelConfig& config, const Batch& batch) {
  return {0, batch.tokens.size(0) * config.num_groups(batch.tokens.size(1))};
}

GroupBatch group_batch(const ModelConfig& config, const Batch& batch, const GroupRange& groups) {
  GroupBatch shape;
  shape.groups = groups;
  shape.tokens = batch.tokens.size(1);
  shape.total_length = config.padded_length(shape.tokens);
  const std::int64_t each = config.num_groups(shape.tokens);
  PHOTON_EXPECT(groups.begin >= 0 && groups.count >= 1 && groups.begin + groups.count <= batch.tokens.size(0) * each,
                "groups {} to {} of {}", groups.begin, groups.begin + groups.count, batch.tokens.size(0) * each);
  const bool whole = groups.begin % each == 0 && groups.count % each == 0;
  PHOTON_EXPECT(whole || config.lookback == 0, "groups {} to {} cut a sequence that lookback reads across",
                groups.begin, groups.begin + groups.count);
  shape.batch = whole ? groups.count / each : 1;
  shape.length = groups.count * config.group_tokens() / shape.batch;
  return shape;
}

PaddedTokens pad_tokens(const Context& ctx, Arena& arena, const Batch& batch, const GroupBatch& shape,
                        const ModelConfig& config) {
  const std::int64_t count = shape.groups.count * config.group_tokens();
  const std::int64_t first = shape.groups.begin * config.group_tokens();
  std::vector<std::int32_t> ids(at(count), 0);
  std::vector<std::uint8_t> mask(ids.size(), 0);
  const auto* const tokens = batch.tokens.host<std::int32_t>();
  const auto* const counts = batch.mask ? batch.mask.host<std::uint8_t>() : nullptr;
  PaddedTokens p;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t b = (first + i) / shape.total_length;
    const std::int64_t t = (first + i) % shape.total_length;
    if (t >= shape.tokens) continue;
    ids[at(i)] = tokens[b * shape.tokens + t];
    mask[at(i)] = counts == nullptr ? 1 : counts[b * shape.tokens + t];
    p.num_counted += mask[at(i)] != 0;
  }
  p.ids = upload(ctx, arena, ids);
  p.mask = upload_unless(p.num_counted == count, ctx, arena, mask);
  return p;
}

UnitMask whole_units(const Context& ctx, Arena& arena, const ModelConfig& config, std::int64_t l,
                     const GroupBatch& shape) {
  const std::int64_t span = config.cumulative_chunk(l);
  const std::int64_t units = shape.total_length / span;  // of a sequence
  const std::int64_t first = shape.groups.begin * config.group_tokens() / span;
  const std::int64_t count = shape.groups.count * config.group_tokens() / span;
  std::vector<std::uint8_t> whole(at(count));
  UnitMask result;
  for (std::int64_t i = 0; i < count; ++i) {
    whole[at(i)] = ((first + i) % units + 1) * span <= shape.tokens ? 1 : 0;
    result.count += whole[at(i)];
  }
  result.mask = upload_unless(result.count == count, ctx, arena, whole);
  return result;
}

PhotonStage::PhotonStage(const ModelConfig& config, const LayerRange& layers, DType dtype)
    : config_(config), part_(config, layers), dtype_(dtype), num_levels_(config.num_levels()) {
  for (std::int64_t l = 1; l <= num_levels_; ++l) {
    const LevelConfig& c = config.levels[at(l - 1)];
    const std::string prefix = "levels." + std::to_string(l - 1) + ".";
    levels_.push_back({Stack(c.encoder, part_.encoder(l), c.dim, config.norm_eps, AttentionKind::stream,
                             prefix + "encoder.", false, dtype),
                       Stack(c.decoder, part_.decoder(l), config.width(l - 1), config.norm_eps, AttentionKind::group,
                             prefix + "decoder.", false, dtype)});
  }
}

PhotonTensors PhotonStage::bind(const Parameters& parameters) const {
  PhotonTensors t;
  if (part_.embeds() || (part_.has_head() && config_.tie_embeddings)) t.embed = parameters.working_view("embed.weight");
  if (part_.encoder(num_levels_).ends()) t.start_latent = parameters.working_view("start_latent");
  if (part_.has_head()) t.head = config_.tie_embeddings ? t.embed : parameters.working_view("lm_head.weight");
  t.levels.resize(levels_.size());
  for (std::int64_t l = 1; l <= num_levels_; ++l) {
    const std::string prefix = "levels." + std::to_string(l - 1) + ".";
    LevelTensors& level = t.levels[at(l - 1)];
    if (part_.encoder(l).starts()) level.chunker = parameters.working_view(prefix + "chunker.weight");
    if (part_.decoder(l).starts()) level.converter = parameters.working_view(prefix + "converter.weight");
    level.encoder = levels_[at(l - 1)].encoder.bind(parameters);
    level.decoder = levels_[at(l - 1)].decoder.bind(parameters);
  }
  return t;
}

std::vector<StackTensors*> stacks_of(PhotonTensors& tensors) {
  std::vector<StackTensors*> stacks;
  for (LevelTensors& level : tensors.levels) {
    stacks.push_back(&level.encoder);
    stacks.push_back(&level.decoder);
  }
  return stacks;
}

Shape PhotonStage::state_shape(const GroupBatch& shape, std::int64_t l) const {
  return {shape.batch, shape.units(config_, l), config_.width(l)};
}

Shape PhotonStage::converted_shape(const GroupBatch& shape, std::int64_t l) const {
  return {shape.batch * shape.units(config_, l), config_.levels[at(l - 1)].prefix * config_.width(l - 1)};
}

Shape PhotonStage::decoder_shape(const GroupBatch& shape, std::int64_t l) const {
  return {shape.batch * shape.units(config_, l), config_.decoder_positions(l), config_.width(l - 1)};
}

std::optional<Shape> PhotonStage::in_shape(const GroupBatch& shape) const {
  for (std::int64_t l = 1; l <= num_levels_; ++l) {
    if (!part_.encoder(l).empty() && !part_.encoder(l).starts()) return encoder_shape(shape, l);
    if (!part_.decoder(l).empty() && !part_.decoder(l).starts()) return decoder_shape(shape, l);
  }
  return std::nullopt;
}

std::optional<Shape> PhotonStage::out_shape(const GroupBatch& shape) const {
  for (std::int64_t l = 1; l <= num_levels_; ++l) {
    if (!part_.encoder(l).empty() && !part_.encoder(l).ends()) return encoder_shape(shape, l);
    if (!part_.decoder(l).empty() && !part_.decoder(l).ends()) return decoder_shape(shape, l);
  }
  return std::nullopt;
}

PhotonStage::Pass PhotonStage::begin(const Context& ctx, Arena& arena, const Batch& batch,
                                     const GroupRange& groups) const {
  PHOTON_EXPECT(batch.tokens.rank() == 2 && batch.tokens.contiguous(), "tokens of shape {}",
                batch.tokens.shape().str());
  if (batch.mask) expect_shape(batch.mask, batch.tokens.shape(), "the loss mask");
  PHOTON_EXPECT(!part_.has_encoders() || groups == all_groups(config_, batch),
                "encoders read whole sequences, not groups {} to {}", groups.begin, groups.begin + groups.count);
  Pass pass;
  pass.shape = group_batch(config_, batch, groups);
  pass.x.resize(at(num_levels_ + 1));
  pass.y.resize(at(num_levels_ + 1));
  pass.encoder_saved.resize(at(num_levels_));
  pass.decoder_saved.resize(at(num_levels_));
  if (part_.embeds() || part_.has_head()) pass.tokens = pad_tokens(ctx, arena, batch, pass.shape, config_);
  for (std::int64_t l = 1; l <= num_levels_; ++l) {
    if (part_.reads_x(l) && !part_.makes_x(l)) pass.x[at(l)] = floats(arena, state_shape(pass.shape, l));
    if (part_.reads_y(l) && !part_.makes_y(l)) pass.y[at(l)] = floats(arena, state_shape(pass.shape, l));
  }
  if (const auto shape = in_shape(pass.shape)) pass.in = floats(arena, *shape);
  if (const auto shape = out_shape(pass.shape)) pass.out = floats(arena, *shape);
  return pass;
}

void PhotonStage::forward(const Context& ctx, Arena& arena, const PhotonTensors& weights, Pass& pass) {
  // Bottom-up: X(l) [B, M_l, D_l].
  const GroupBatch& p = pass.shape;
  std::vector<TensorView>& x = pass.x;
  std::vector<TensorView>& y = pass.y;
  if (part_.embeds()) {
    x[0] = floats(arena, state_shape(p, 0));
    embedding_forward(ctx, weights.embed, pass.tokens.ids, rows(x[0]));
  }
  for (std::int64_t l = 1; l <= num_levels_; ++l) {
    const StackPart& part = part_.encoder(l);
    if (part.empty()) continue;
    const LevelTensors& w = weights.levels[at(l - 1)];
    const TensorView a = part.starts() ? floats(arena, state_shape(p, l)) : pass.in;
    if (part.ends()) x[at(l)] = floats(arena, a.shape());
    if (part.starts()) {
      linear_forward(ctx, x[at(l - 1)].reshape({p.batch * p.units(config_, l), w.chunker.size(1)}), w.chunker, rows(a));
    }
    pass.encoder_saved[at(l - 1)] =
        level(l).encoder.forward_saving(ctx, arena, w.encoder, a, part.ends() ? x[at(l)] : pass.out, pass.options);
  }

  // Top-down: c(L) is X(L) shifted by one group; below, c(l) = Y(l).
  if (part_.encoder(num_levels_).ends()) {
    y[at(num_levels_)] = floats(arena, x[at(num_levels_)].shape());
    shift_forward(ctx, x[at(num_levels_)], weights.start_latent, y[at(num_levels_)]);
  }
  for (std::int64_t l = num_levels_; l >= 1; --l) {
    const StackPart& part = part_.decoder(l);
    if (part.empty()) continue;
    const LevelTensors& w = weights.levels[at(l - 1)];
    const LevelConfig& c = config_.levels[at(l - 1)];
    const Shape shape = decoder_shape(p, l);
    const std::int64_t groups = shape[0];
    const std::int64_t below = config_.width(l - 1);
    const TensorView in = part.starts() ? floats(arena, shape) : pass.in;
    if (part.ends()) y[at(l - 1)] = floats(arena, state_shape(p, l - 1));
    if (part.starts()) {
      const ArenaScope u_scope(arena);
      const TensorView u = floats(arena, {groups, c.prefix * below});
      linear_forward(ctx, rows(y[at(l)]), w.converter, u);
      decoder_rows_forward(ctx, u.split(1, c.prefix), x[at(l - 1)], config_.level_lookback(l), in);
    }
    pass.decoder_saved[at(l - 1)] = level(l).decoder.forward_saving(
        ctx, arena, w.decoder, in, part.ends() ? y[at(l - 1)].reshape({groups, c.chunk, below}) : pass.out,
        pass.options);
  }
}

void PhotonStage::begin_backward(const Context& ctx, Arena& arena, Pass& pass) const {
  pass.whole.resize(at(num_levels_ - 1));
  for (std::int64_t l = 1; l < num_levels_; ++l) {
    if (part_.decoder(l + 1).ends()) pass.whole[at(l - 1)] = whole_units(ctx, arena, config_, l, pass.shape);
  }
  pass.dx.resize(pass.x.size());
  pass.dy.resize(pass.y.size());
  for (std::size_t l = 0; l < pass.x.size(); ++l) {
    if (!pass.x[l]) continue;
    pass.dx[l] = floats(arena, pass.x[l].shape());
    fill(ctx, pass.dx[l], 0.0F);
  }
  for (std::size_t l = 0; l < pass.y.size(); ++l) {
    if (pass.y[l]) pass.dy[l] = floats(arena, pass.y[l].shape());
  }
  if (pass.in) pass.din = floats(arena, pass.in.shape());
  if (pass.out) pass.dout = floats(arena, pass.out.shape());
  if (!pass.options.split_backward) return;
  pass.da.resize(at(num_levels_));
  pass.du.resize(at(num_levels_));
  for (std::int64_t l = 1; l <= num_levels_; ++l) {
    const LevelModules& modules = levels_[at(l - 1)];
    if (part_.encoder(l).starts()) pass.da[at(l - 1)] = floats(arena, state_shape(pass.shape, l));
    if (part_.decoder(l).starts()) pass.du[at(l - 1)] = floats(arena, converted_shape(pass.shape, l));
    if (!part_.encoder(l).empty()) modules.encoder.keep_operands(arena, pass.encoder_saved[at(l - 1)]);
    if (!part_.decoder(l).empty()) modules.decoder.keep_operands(arena, pass.decoder_saved[at(l - 1)]);
  }
}

LossSums PhotonStage::no_sums() const {
  LossSums sums;
  sums.rec.resize(at(num_levels_ - 1));
  sums.num_units.resize(at(num_levels_ - 1));
  return sums;
}

LossSums PhotonStage::backward(const Context& ctx, Arena& arena, const PhotonTensors& weights,
                               const PhotonTensors& gradients, Pass& pass, const LossScales& scales,
                               const RecLossOptions& rec) {
  LossSums sums = no_sums();
  for (std::int64_t module = num_modules(config_) - 1; module >= 0; --module) {
    if (!part_of(config_, layers(), module).empty()) {
      sums += backward_module(ctx, arena, weights, gradients, pass, module, scales, rec);
    }
  }
  return sums;
}

LossSums PhotonStage::backward_module(const Context& ctx, Arena& arena, const PhotonTensors& weights,
                                      const PhotonTensors& gradients, Pass& pass, std::int64_t module,
                                      const LossScales& scales, const RecLossOptions& rec) {
  PHOTON_EXPECT(static_cast<std::int64_t>(scales.rec.size()) == num_levels_ - 1,
                "{} scales of the recursive loss for {} levels", scales.rec.size(), num_levels_);
  const std::vector<TensorView>& dx = pass.dx;
  const std::vector<TensorView>& dy = pass.dy;
  LossSums sums = no_sums();
  const bool decodes = module >= num_levels_;
  const std::int64_t l = decodes ? 2 * num_levels_ - module : module + 1;
  const LevelTensors& w = weights.levels[at(l - 1)];
  const LevelTensors& g = gradients.levels[at(l - 1)];
  if (decodes) {
    if (part_.decoder(l).ends() && l == 1) {
      sums.num_tokens = pass.tokens.num_counted;
      sums.ce = head_backward(ctx, pass, weights.head, scales.ce, gradients.head);
    } else if (part_.decoder(l).ends()) {  // how far this decoder's reconstruction is from the encoder's state
      const std::int64_t k = l - 1;
      const UnitMask& whole = pass.whole[at(k - 1)];
      const TensorView y = rows(pass.y[at(k)]);
      const TensorView x = rows(pass.x[at(k)]);
      sums.num_units[at(k - 1)] = whole.count;
      if (pass.losses) {
        add_rec_loss_forward(ctx, rec.distance, y, x, whole.mask, pass.losses.slice(0, k, 1));
      } else {
        sums.rec[at(k - 1)] = rec_loss_forward(ctx, rec.distance, y, x, whole.mask);
      }
      rec_loss_backward(ctx, rec.distance, y, x, whole.mask, scales.rec[at(k - 1)], rows(dy[at(k)]),
                        rec.stop_gradient ? TensorView() : rows(dx[at(k)]));
    }
    decoder_backward(ctx, arena, w, g, pass, l);
  } else {
    if (l == num_levels_ && part_.encoder(l).ends()) {
      shift_backward(ctx, dy[at(l)], dx[at(l)], gradients.start_latent);
    }
    encoder_backward(ctx, arena, w, g, pass, l);
  }
  // The tokens' embedding: when nothing hosted adds to dX(0) any more.
  const bool embeds =
      decodes ? l == 1 && part_.decoder(1).starts() && !part_.encoder(1).starts() : l == 1 && part_.encoder(1).starts();
  if (embeds) embedding_backward(ctx, rows(dx[0]), pass.tokens.ids, gradients.embed);
  return sums;
}

void PhotonStage::decoder_backward(const Context& ctx, Arena& arena, const LevelTensors& weights,
                                   const LevelTensors& gradients, Pass& pass, std::int64_t l) {
  const ArenaScope scope(arena);
  const LevelConfig& c = config_.levels[at(l - 1)];
  const StackPart& part = part_.decoder(l);
  const Stack::Saved& saved = pass.decoder_saved[at(l - 1)];
  const bool splits = pass.options.split_backward;
  const std::int64_t groups = saved.shape.sequences;
  const std::int64_t below = config_.width(l - 1);
  const TensorView d_in = part.starts() ? floats(arena, {groups, saved.shape.positions, below}) : pass.din;
  TensorView du = splits ? pass.du[at(l - 1)] : TensorView();
  if (part.starts() && !splits) du = floats(arena, converted_shape(pass.shape, l));
  level(l).decoder.backward(ctx, arena, weights.decoder, saved,
                            part.ends() ? pass.dy[at(l - 1)].reshape({groups, c.chunk, below}) : pass.dout, d_in,
                            gradients.decoder, pass.write);
  if (!part.starts()) return;
  decoder_rows_backward(ctx, d_in, config_.level_lookback(l), du.split(1, c.prefix), pass.dx[at(l - 1)]);
  if (!splits) converter_weights(ctx, gradients, pass, du, l);
  linear_backward_input(ctx, du, weights.converter, rows(pass.dy[at(l)]));
}

void PhotonStage::encoder_backward(const Context& ctx, Arena& arena, const LevelTensors& weights,
                                   const LevelTensors& gradients, Pass& pass, std::int64_t l) {
  const ArenaScope scope(arena);
  const StackPart& part = part_.encoder(l);
  const bool splits = pass.options.split_backward;
  TensorView da = splits ? pass.da[at(l - 1)] : TensorView();
  if (part.starts() && !splits) da = floats(arena, state_shape(pass.shape, l));
  level(l).encoder.backward(ctx, arena, weights.encoder, pass.encoder_saved[at(l - 1)],
                            part.ends() ? pass.dx[at(l)] : pass.dout, part.starts() ? da : pass.din, gradients.encoder,
                            pass.write);
  if (!part.starts()) return;
  if (!splits) chunker_weights(ctx, gradients, pass, da, l);
  const Shape chunks{rows(da).size(0), weights.chunker.size(1)};
  linear_backward_input(ctx, rows(da), weights.chunker, pass.dx[at(l - 1)].reshape(chunks), Write::accumulate);
}

void PhotonStage::converter_weights(const Context& ctx, const LevelTensors& gradients, const Pass& pass,
                                    const TensorView& du, std::int64_t l) {
  linear_backward_weight(ctx, du, rows(pass.y[at(l)]), gradients.converter, pass.write);
}

void PhotonStage::chunker_weights(const Context& ctx, const LevelTensors& gradients, const Pass& pass,
                                  const TensorView& da, std::int64_t l) {
  const Shape chunks{rows(da).size(0), gradients.chunker.size(1)};
  linear_backward_weight(ctx, rows(da), pass.x[at(l - 1)].reshape(chunks), gradients.chunker, pass.write);
}

void PhotonStage::backward_weights(const Context& ctx, Arena& arena, const PhotonTensors& weights,
                                   const PhotonTensors& gradients, const Pass& pass, std::int64_t module) {
  const bool decodes = module >= num_levels_;
  const std::int64_t l = decodes ? 2 * num_levels_ - module : module + 1;
  const LevelTensors& w = weights.levels[at(l - 1)];
  const LevelTensors& g = gradients.levels[at(l - 1)];
  if (decodes) {
    level(l).decoder.backward_weights(ctx, arena, w.decoder, pass.decoder_saved[at(l - 1)], g.decoder, pass.write);
    if (part_.decoder(l).starts()) converter_weights(ctx, g, pass, pass.du[at(l - 1)], l);
  } else {
    level(l).encoder.backward_weights(ctx, arena, w.encoder, pass.encoder_saved[at(l - 1)], g.encoder, pass.write);
    if (part_.encoder(l).starts()) chunker_weights(ctx, g, pass, pass.da[at(l - 1)], l);
  }
}

LossSums PhotonStage::losses(const Context& ctx, Arena& arena, const PhotonTensors& weights, const Pass& pass,
                             const RecLossOptions& rec) const {
  LossSums sums = no_sums();
  if (part_.has_head()) {
    sums.num_tokens = pass.tokens.num_counted;
    sums.ce = head_loss_forward(ctx, rows(pass.y[0]), weights.head, pass.tokens.ids, pass.tokens.mask, {}, {});
  }
  for (std::int64_t l = 1; l < num_levels_; ++l) {
    if (!part_.decoder(l + 1).ends()) continue;
    const ArenaScope scope(arena);
    const UnitMask whole = whole_units(ctx, arena, config_, l, pass.shape);
    sums.num_units[at(l - 1)] = whole.count;
    sums.rec[at(l - 1)] = rec_loss_forward(ctx, rec.distance, rows(pass.y[at(l)]), rows(pass.x[at(l)]), whole.mask);
  }
  return sums;
}

}  // namespace photon
