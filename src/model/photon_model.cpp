#include "model/photon_model.hpp"

#include <algorithm>

#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/group_rows.hpp"
#include "kernels/head_loss.hpp"
#include "kernels/linear.hpp"

namespace photon {
namespace {

TensorView floats(Arena& arena, const Shape& shape) {
  return arena.allocate(DType::f32, shape);
}

Distance to_distance(RecLossOptions::Kind kind) {
  switch (kind) {
    case RecLossOptions::Kind::smooth_l1:
      return Distance::smooth_l1;
    case RecLossOptions::Kind::mse:
      return Distance::mse;
    case RecLossOptions::Kind::cosine:
      break;
  }
  return Distance::cosine;
}

// [B, M, D] as [B*M, D].
template <bool Const>
BasicView<Const> rows(const BasicView<Const>& x) {
  return x.reshape({x.size(0) * x.size(1), x.size(2)});
}

}  // namespace

std::int64_t padded_length(const ModelConfig& config, std::int64_t tokens) {
  const std::int64_t group = config.group_tokens();
  return (tokens + group - 1) / group * group;
}

void ensure_arena(Arena& arena, Space space, std::int64_t bytes, const char* what) {
  if (arena.space() == space && arena.capacity() >= bytes) return;
  arena = Arena();  // the old memory goes first
  arena = Arena(space, bytes, what);
}

// A batch on whole groups of C_<=L tokens. The last positions of each sequence may be padding: token 0, mask 0.
struct PhotonModel::Padded {
  std::int64_t batch = 0;
  std::int64_t tokens = 0;  // T, without padding
  std::int64_t length = 0;  // T', a multiple of C_<=L
  TensorView ids;           // [B*T'] i32
  TensorView mask;          // [B*T'] u8
  std::int64_t num_counted = 0;
};

PhotonModel::Padded PhotonModel::pad(Arena& arena, const Batch& batch) const {
  PHOTON_EXPECT(batch.tokens.rank() == 2 && batch.tokens.contiguous(), "tokens of shape {}",
                batch.tokens.shape().str());
  if (batch.mask) expect_shape(batch.mask, batch.tokens.shape(), "the loss mask");
  Padded p;
  p.batch = batch.tokens.size(0);
  p.tokens = batch.tokens.size(1);
  p.length = padded_length(config_, p.tokens);
  p.num_counted = count_tokens(batch);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(p.batch * p.length), 0);
  std::vector<std::uint8_t> mask(ids.size(), 0);
  const auto* const tokens = batch.tokens.host<std::int32_t>();
  const auto* const counts = batch.mask ? batch.mask.host<std::uint8_t>() : nullptr;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    for (std::int64_t t = 0; t < p.tokens; ++t) {
      const auto to = static_cast<std::size_t>(b * p.length + t);
      ids[to] = tokens[b * p.tokens + t];
      mask[to] = counts == nullptr ? 1 : counts[b * p.tokens + t];
    }
  }
  p.ids = upload(arena, ids);
  p.mask = arena.allocate(DType::u8, {p.batch * p.length});
  copy(host_view(mask.data(), {p.batch * p.length}), p.mask);
  return p;
}

namespace {

// Which units of level l hold no padding: [B * M_l] u8.
TensorView whole_units(Arena& arena, const ModelConfig& config, std::int64_t l, std::int64_t batch, std::int64_t tokens,
                       std::int64_t length) {
  const std::int64_t span = config.cumulative_chunk(l);
  const std::int64_t units = length / span;
  std::vector<std::uint8_t> whole;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t m = 0; m < units; ++m) whole.push_back((m + 1) * span <= tokens ? 1 : 0);
  }
  const TensorView view = arena.allocate(DType::u8, {batch * units});
  copy(host_view(whole.data(), {batch * units}), view);
  return view;
}

}  // namespace

PhotonModel::PhotonModel(const ModelConfig& config, Space space) : Model(config, space) {
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) {
    const LevelConfig& c = config.levels[static_cast<std::size_t>(l - 1)];
    const std::string prefix = "levels." + std::to_string(l - 1) + ".";
    modules_.push_back(
        {Stack(c.encoder, c.dim, config.norm_eps, AttentionKind::stream, prefix + "encoder.", false),
         Stack(c.decoder, config.width(l - 1), config.norm_eps, AttentionKind::group, prefix + "decoder.", false)});
  }
  tensors_ = bind(parameters_);
}

PhotonTensors PhotonModel::bind(const Parameters& parameters) const {
  PhotonTensors t;
  t.embed = parameters.view("embed.weight");
  t.start_latent = parameters.view("start_latent");
  t.head = config_.tie_embeddings ? t.embed : parameters.view("lm_head.weight");
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    const std::string prefix = "levels." + std::to_string(i) + ".";
    t.levels.push_back({parameters.view(prefix + "chunker.weight"), parameters.view(prefix + "converter.weight"),
                        modules_[i].encoder.bind(parameters), modules_[i].decoder.bind(parameters)});
  }
  return t;
}

LossSums PhotonModel::forward_backward(const Context& ctx, const Batch& batch, const LossScales& scales,
                                       const RecLossOptions& rec, Parameters& gradients) {
  ensure_arena(arena_, ctx.space, training_activation_bytes(config_, batch.tokens.size(0), batch.tokens.size(1)),
               "training activations");
  Arena& arena = arena_;
  const ArenaScope scope(arena);
  const PhotonTensors grads = bind(gradients);
  const std::int64_t num_levels = config_.num_levels();
  PHOTON_EXPECT(static_cast<std::int64_t>(scales.rec.size()) == num_levels - 1,
                "{} scales of the recursive loss for {} levels", scales.rec.size(), num_levels);
  const auto at = [](std::int64_t l) { return static_cast<std::size_t>(l); };

  // Bottom-up: X(l) [B, M_l, D_l].
  const Padded p = pad(arena, batch);
  std::vector<TensorView> x(at(num_levels + 1));
  std::vector<TensorView> y(at(num_levels));
  std::vector<Stack::Saved> encoder_saved(at(num_levels));
  std::vector<Stack::Saved> decoder_saved(at(num_levels));
  x[0] = floats(arena, {p.batch, p.length, config_.dim});
  embedding_forward(ctx, tensors_.embed, p.ids, rows(x[0]));
  for (std::int64_t l = 1; l <= num_levels; ++l) {
    const LevelTensors& w = tensors_.levels[at(l - 1)];
    const std::int64_t units = p.length / config_.cumulative_chunk(l);
    const TensorView a = floats(arena, {p.batch, units, config_.width(l)});
    x[at(l)] = floats(arena, a.shape());
    linear_forward(ctx, x[at(l - 1)].reshape({p.batch * units, w.chunker.size(1)}), w.chunker, rows(a));
    encoder_saved[at(l - 1)] = level(l).encoder.forward_saving(ctx, arena, w.encoder, a, x[at(l)]);
  }

  // Top-down: c(L) is X(L) shifted by one group; below, c(l) = Y(l).
  const TensorView top = floats(arena, x[at(num_levels)].shape());
  shift_forward(ctx, x[at(num_levels)], tensors_.start_latent, top);
  const auto conditioning = [&](std::int64_t l) { return rows(l == num_levels ? top : y[at(l)]); };  // c(l) [G, D_l]
  for (std::int64_t l = num_levels; l >= 1; --l) {
    const LevelTensors& w = tensors_.levels[at(l - 1)];
    const LevelConfig& c = config_.levels[at(l - 1)];
    const std::int64_t groups = p.batch * (p.length / config_.cumulative_chunk(l));
    const std::int64_t below = config_.width(l - 1);
    const TensorView in = floats(arena, {groups, config_.decoder_positions(l), below});
    y[at(l - 1)] = floats(arena, x[at(l - 1)].shape());
    {
      const ArenaScope u_scope(arena);
      const TensorView u = floats(arena, {groups, c.prefix * below});
      linear_forward(ctx, conditioning(l), w.converter, u);
      decoder_rows_forward(ctx, u.split(1, c.prefix), x[at(l - 1)], config_.level_lookback(l), in);
    }
    decoder_saved[at(l - 1)] =
        level(l).decoder.forward_saving(ctx, arena, w.decoder, in, y[at(l - 1)].reshape({groups, c.chunk, below}));
  }

  // Losses and their gradients.
  LossSums sums;
  sums.num_tokens = p.num_counted;
  sums.num_units = unpadded_units(config_, p.batch, p.tokens);
  std::vector<TensorView> whole;
  for (std::int64_t l = 1; l < num_levels; ++l)
    whole.push_back(whole_units(arena, config_, l, p.batch, p.tokens, p.length));
  std::vector<TensorView> dx(at(num_levels + 1));
  std::vector<TensorView> dy(at(num_levels + 1));  // dy[L] is dc(L)
  for (std::int64_t l = 0; l <= num_levels; ++l) {
    dx[at(l)] = floats(arena, x[at(l)].shape());
    fill(ctx, dx[at(l)], 0.0F);
  }
  for (std::int64_t l = 0; l <= num_levels; ++l) dy[at(l)] = floats(arena, x[at(l)].shape());
  sums.ce = head_loss_backward(ctx, rows(y[0]), tensors_.head, p.ids, p.mask, scales.ce, rows(dy[0]), grads.head);

  for (std::int64_t l = 1; l <= num_levels; ++l) {
    const ArenaScope level_scope(arena);
    const LevelTensors& w = tensors_.levels[at(l - 1)];
    const LevelTensors& g = grads.levels[at(l - 1)];
    const LevelConfig& c = config_.levels[at(l - 1)];
    const Stack::Saved& saved = decoder_saved[at(l - 1)];
    const std::int64_t groups = saved.shape.sequences;
    const std::int64_t below = config_.width(l - 1);
    const TensorView d_in = floats(arena, {groups, saved.shape.positions, below});
    const TensorView du = floats(arena, {groups, c.prefix * below});
    level(l).decoder.backward(ctx, arena, w.decoder, saved, dy[at(l - 1)].reshape({groups, c.chunk, below}), d_in,
                              g.decoder);
    decoder_rows_backward(ctx, d_in, config_.level_lookback(l), du.split(1, c.prefix), dx[at(l - 1)]);
    linear_backward_weight(ctx, du, conditioning(l), g.converter);
    linear_backward_input(ctx, du, w.converter, rows(dy[at(l)]));
    if (l == num_levels) {
      shift_backward(ctx, dy[at(l)], dx[at(l)], grads.start_latent);
    } else {
      const Distance distance = to_distance(rec.kind);
      const TensorView& mask = whole[at(l - 1)];
      sums.rec.push_back(rec_loss_forward(ctx, distance, rows(y[at(l)]), rows(x[at(l)]), mask));
      rec_loss_backward(ctx, distance, rows(y[at(l)]), rows(x[at(l)]), mask, scales.rec[at(l - 1)], rows(dy[at(l)]),
                        rec.stop_gradient ? TensorView() : rows(dx[at(l)]));
    }
  }
  for (std::int64_t l = num_levels; l >= 1; --l) {
    const ArenaScope level_scope(arena);
    const LevelTensors& w = tensors_.levels[at(l - 1)];
    const LevelTensors& g = grads.levels[at(l - 1)];
    const TensorView da = floats(arena, x[at(l)].shape());
    level(l).encoder.backward(ctx, arena, w.encoder, encoder_saved[at(l - 1)], dx[at(l)], da, g.encoder);
    const Shape chunks{rows(da).size(0), w.chunker.size(1)};
    linear_backward_weight(ctx, rows(da), x[at(l - 1)].reshape(chunks), g.chunker);
    linear_backward_input(ctx, rows(da), w.chunker, dx[at(l - 1)].reshape(chunks), Write::accumulate);
  }
  embedding_backward(ctx, rows(dx[0]), p.ids, grads.embed);
  return sums;
}

// A teacher-forced pass that saves nothing; views into the model's arena.
struct PhotonModel::Pass {
  Padded batch;
  std::vector<TensorView> x;  // X(l) [B, M_l, D_l], l = 0 .. L
  std::vector<TensorView> y;  // Y(l), l = 0 .. L-1
};

std::int64_t PhotonModel::decode_groups_bytes(std::int64_t l, std::int64_t groups) const {
  const LevelConfig& c = config_.levels[static_cast<std::size_t>(l - 1)];
  const std::int64_t below = config_.width(l - 1);
  const StackShape shape{groups, config_.decoder_positions(l), c.chunk};
  return arena_bytes(shape.rows() * below, 4) + arena_bytes(groups * c.prefix * below, 4) +
         stack_inference_bytes(c.decoder, below, AttentionKind::group, shape);
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
  const std::int64_t length = padded_length(config_, tokens);
  const std::int64_t n = batch * length;
  std::int64_t kept = 4 * arena_bytes(n, 4);  // ids, mask, token losses, argmax
  std::int64_t scratch = 0;
  for (std::int64_t l = 0; l <= config_.num_levels(); ++l) {
    // X(l), Y(l) (or c(L)), the chunker's output and a mask of units.
    kept += 4 * arena_bytes(batch * (length / config_.cumulative_chunk(l)) * config_.width(l), 4);
    if (l == 0) continue;
    const LevelConfig& c = config_.levels[static_cast<std::size_t>(l - 1)];
    const std::int64_t units = length / config_.cumulative_chunk(l);
    scratch = std::max({scratch, decode_groups_bytes(l, batch * units),
                        stack_inference_bytes(c.encoder, c.dim, AttentionKind::stream, {batch, units, units})});
  }
  return kept + scratch;
}

PhotonModel::Pass PhotonModel::run(const Context& ctx, const Batch& batch) {
  ensure_arena(arena_, ctx.space, inference_bytes(batch.tokens.size(0), batch.tokens.size(1)), "a forward pass");
  const std::int64_t num_levels = config_.num_levels();
  const auto at = [](std::int64_t l) { return static_cast<std::size_t>(l); };
  Pass pass{pad(arena_, batch), std::vector<TensorView>(at(num_levels + 1)), std::vector<TensorView>(at(num_levels))};
  const Padded& p = pass.batch;
  pass.x[0] = floats(arena_, {p.batch, p.length, config_.dim});
  embedding_forward(ctx, tensors_.embed, p.ids, rows(pass.x[0]));
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
  const Padded& p = pass.batch;
  LossSums sums;
  sums.num_tokens = p.num_counted;
  sums.num_units = unpadded_units(config_, p.batch, p.tokens);
  const TensorView loss = token_loss ? floats(arena_, {p.batch, p.length}) : TensorView();
  const TensorView best = argmax ? arena_.allocate(DType::i32, {p.batch, p.length}) : TensorView();
  const std::int64_t n = p.batch * p.length;
  sums.ce = head_loss_forward(ctx, rows(pass.y[0]), tensors_.head, p.ids, p.mask, loss ? loss.reshape({n}) : loss,
                              best ? best.reshape({n}) : best);
  if (token_loss) copy(loss.slice(1, 0, p.tokens), token_loss);
  if (argmax) copy(best.slice(1, 0, p.tokens), argmax);
  for (std::int64_t l = 1; l < config_.num_levels(); ++l) {
    const ArenaScope mask_scope(arena_);
    const TensorView mask = whole_units(arena_, config_, l, p.batch, p.tokens, p.length);
    const auto i = static_cast<std::size_t>(l);
    sums.rec.push_back(rec_loss_forward(ctx, to_distance(rec.kind), rows(pass.y[i]), rows(pass.x[i]), mask));
  }
  return sums;
}

Tensor PhotonModel::hidden(const Context& ctx, const Batch& batch) {
  const ArenaScope scope(arena_);
  const Pass pass = run(ctx, batch);
  Tensor out(ctx.space, DType::f32, {pass.batch.batch, pass.batch.tokens, config_.dim}, "hidden states");
  copy_elements(ctx, pass.y[0].slice(1, 0, pass.batch.tokens), out);
  return out;
}

PhotonModel::States PhotonModel::states(const Context& ctx, const Batch& batch) {
  const ArenaScope scope(arena_);
  const Pass pass = run(ctx, batch);
  States states;
  const auto keep = [&](const TensorView& view) {
    Tensor tensor(ctx.space, DType::f32, view.shape(), "states");
    copy_elements(ctx, view, tensor);
    return tensor;
  };
  for (const TensorView& x : pass.x) states.x.push_back(keep(x));
  for (const TensorView& y : pass.y) states.y.push_back(keep(y));
  return states;
}

}  // namespace photon
