#include "model/photon_decoder.hpp"

#include <algorithm>
#include <numeric>

#include "kernels/elementwise.hpp"
#include "kernels/embedding.hpp"
#include "kernels/linear.hpp"

namespace photon {
namespace {

std::vector<std::int32_t> iota(std::int64_t n) {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(n));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

}  // namespace

PhotonDecoder::PhotonDecoder(PhotonModel& model, const Context& ctx, std::int64_t num_slots, std::int64_t max_tokens)
    : model_(model),
      config_(model.config()),
      ctx_(ctx),
      max_tokens_(padded_length(config_, std::max<std::int64_t>(max_tokens, 1))) {
  const std::int64_t num_levels = config_.num_levels();
  Slot empty;
  empty.units.assign(static_cast<std::size_t>(num_levels), 0);
  slots_.assign(static_cast<std::size_t>(num_slots), empty);
  local_caches_.resize(static_cast<std::size_t>(num_levels));
  for (std::int64_t l = 1; l <= num_levels; ++l) {
    const std::int64_t units = max_tokens_ / config_.cumulative_chunk(l);
    const std::int64_t window = level_config(l).encoder.window;
    encoder_caches_.push_back(
        model_.level(l).encoder.make_cache(ctx.space, num_slots, window > 0 ? std::min(window, units) : units));
  }
  latents_ = Tensor(ctx.space, model_.dtype(), {num_slots, config_.width(num_levels)}, "top-level latents");
}

PhotonDecoder::Rows PhotonDecoder::make_rows(std::span<const std::int64_t> slots) const {
  Rows rows;
  rows.slots = slots;
  for (const std::int64_t slot : slots) {
    PHOTON_EXPECT(slot >= 0 && slot < num_slots(), "slot {} of {}", slot, num_slots());
    rows.ids.push_back(static_cast<std::int32_t>(slot));
  }
  rows.indices = iota(rows.count());
  return rows;
}

KvCache& PhotonDecoder::local_cache(std::int64_t l, std::int64_t rows) {
  KvCache& cache = local_caches_[static_cast<std::size_t>(l - 1)];
  if (cache.k.empty() || cache.k[0].shape()[0] < rows) {
    cache = KvCache();
    cache = model_.level(l).decoder.make_cache(ctx_.space, rows, config_.decoder_positions(l));
  }
  return cache;
}

void PhotonDecoder::reserve_step(std::int64_t rows) {
  std::int64_t bytes = arena_bytes(rows * config_.vocab_size, 4) + 16 * arena_bytes(rows, 4);
  std::int64_t stack = 0;
  const std::int64_t element = element_bytes(model_.dtype());
  for (std::int64_t l = 1; l <= config_.num_levels(); ++l) {
    const LevelConfig& c = level_config(l);
    const std::int64_t below = config_.width(l - 1);
    const std::int64_t prefix = c.prefix + config_.level_lookback(l);
    // Conditioning, prefix vectors, reconstruction, one unit, all units, the chunk, the encoder's output.
    bytes += arena_bytes(rows * c.dim, element) * 4 + arena_bytes(rows * prefix * below, element) * 2 +
             arena_bytes(rows * below, element) * 3 + arena_bytes(rows * c.chunk * below, element);
    stack = std::max({stack, stack_inference_bytes(c.decoder, below, AttentionKind::group, {rows, prefix, 1}, element),
                      stack_inference_bytes(c.decoder, below, AttentionKind::group, {rows, 1, 1}, element),
                      stack_inference_bytes(c.encoder, c.dim, AttentionKind::stream, {rows, 1, 1}, element)});
  }
  ensure_arena(arena_, ctx_.space, bytes + stack, "decoding");
}

void PhotonDecoder::clear(std::int64_t slot) {
  Slot& s = slots_.at(static_cast<std::size_t>(slot));
  s.length = 0;
  std::fill(s.units.begin(), s.units.end(), 0);
  s.recent.clear();
  s.coarse_only = false;
}

void PhotonDecoder::copy_slot(std::int64_t from, std::int64_t to) {
  if (from == to) return;
  slots_.at(static_cast<std::size_t>(to)) = slots_.at(static_cast<std::size_t>(from));
  for (KvCache& cache : encoder_caches_) {
    for (std::size_t i = 0; i < cache.k.size(); ++i) {
      copy(ctx_.stream, cache.k[i].view().slice(0, from, 1), cache.k[i].view().slice(0, to, 1));
      copy(ctx_.stream, cache.v[i].view().slice(0, from, 1), cache.v[i].view().slice(0, to, 1));
    }
  }
  copy(ctx_.stream, latents_.view().slice(0, from, 1), latents_.view().slice(0, to, 1));
}

void PhotonDecoder::prefill(std::span<const std::int64_t> slots,
                            std::span<const std::span<const std::int32_t>> prompts) {
  PHOTON_EXPECT(slots.size() == prompts.size(), "{} prompts for {} slots", prompts.size(), slots.size());
  const Rows rows = make_rows(slots);
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(prompts[i].size());
    PHOTON_EXPECT(length % group_tokens() == 0 && length <= max_tokens_,
                  "a prompt of {} tokens for groups of {} and room for {}", length, group_tokens(), max_tokens_);
    clear(slots[i]);
    longest = std::max(longest, length);
  }
  if (longest == 0) return;

  const std::int64_t n = rows.count();
  std::vector<std::int32_t> padded(static_cast<std::size_t>(n * longest), 0);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    std::copy(prompts[i].begin(), prompts[i].end(), padded.begin() + static_cast<std::ptrdiff_t>(i) * longest);
  }
  std::int64_t bytes = arena_bytes(n * longest, 4);
  std::int64_t stack = 0;
  const std::int64_t element = element_bytes(model_.dtype());
  for (std::int64_t l = 0; l <= config_.num_levels(); ++l) {
    const std::int64_t units = longest / config_.cumulative_chunk(l);
    bytes += 2 * arena_bytes(n * units * config_.width(l), element);
    if (l > 0) {
      stack = std::max(stack, stack_inference_bytes(level_config(l).encoder, config_.width(l), AttentionKind::stream,
                                                    {n, units, units}, element));
    }
  }
  ensure_arena(arena_, ctx_.space, bytes + stack, "encoding prompts");
  const ArenaScope scope(arena_);
  TensorView below = floats(arena_, {n * longest, config_.dim});
  embedding_forward(ctx_, model_.tensors().embed, upload(ctx_, arena_, padded), below);
  TensorView x;
  for (std::int64_t l = 1; l <= config_.num_levels(); ++l) {
    const LevelTensors& w = level_tensors(l);
    const std::int64_t units = longest / config_.cumulative_chunk(l);
    std::vector<std::int64_t> lengths;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      lengths.push_back(static_cast<std::int64_t>(prompts[i].size()) / config_.cumulative_chunk(l));
      slots_[static_cast<std::size_t>(slots[i])].units[static_cast<std::size_t>(l - 1)] =
          static_cast<std::int32_t>(lengths.back());
    }
    const TensorView a = floats(arena_, {n, units, config_.width(l)});
    x = floats(arena_, a.shape());
    linear_forward(ctx_, below.reshape({n * units, w.chunker.size(1)}), w.chunker,
                   a.reshape({n * units, config_.width(l)}));
    model_.level(l).encoder.prefill(ctx_, arena_, w.encoder, a, encoder_caches_[static_cast<std::size_t>(l - 1)],
                                    rows.ids, lengths, x);
    below = x;
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(prompts[i].size());
    if (length == 0) continue;
    Slot& slot = slots_[static_cast<std::size_t>(slots[i])];
    slot.length = length;
    const std::int64_t kept = std::min(config_.lookback, length);
    slot.recent.assign(prompts[i].end() - kept, prompts[i].end());
    const TensorView last =
        x.slice(0, static_cast<std::int64_t>(i), 1).merge(0).slice(0, length / group_tokens() - 1, 1);
    copy(ctx_.stream, last, latents_.view().slice(0, slots[i], 1));
  }
}

void PhotonDecoder::gather_latents(const Rows& rows, const TensorView& c) const {
  for (std::int64_t i = 0; i < rows.count(); ++i) {
    const std::int64_t slot = rows.slots[static_cast<std::size_t>(i)];
    const TensorView to = c.slice(0, i, 1);
    if (slots_[static_cast<std::size_t>(slot)].length == 0) {
      copy(ctx_.stream, model_.tensors().start_latent, to.merge(0));
    } else {
      copy(ctx_.stream, latents_.view().slice(0, slot, 1), to);
    }
  }
}

void PhotonDecoder::scatter_latents(const Rows& rows, const ConstTensorView& x) {
  for (std::int64_t i = 0; i < rows.count(); ++i) {
    const std::int64_t slot = rows.slots[static_cast<std::size_t>(i)];
    copy(ctx_.stream, x.slice(0, i, 1), latents_.view().slice(0, slot, 1));
    Slot& s = slots_[static_cast<std::size_t>(slot)];
    s.length += group_tokens();
  }
}

void PhotonDecoder::local_start(std::int64_t l, const ConstTensorView& c, std::span<const std::int32_t> indices,
                                const Rows* rows, const TensorView& y) {
  const ArenaScope scope(arena_);
  const std::int64_t n = c.size(0);
  const std::int64_t prefix = level_config(l).prefix;
  const std::int64_t below = config_.width(l - 1);
  const std::int64_t lookback = config_.level_lookback(l);
  const TensorView u = floats(arena_, {n, prefix * below});
  linear_forward(ctx_, c, level_tensors(l).converter, u);
  TensorView in = u.split(1, prefix);
  if (lookback > 0) {
    in = floats(arena_, {n, prefix + lookback, below});
    copy_elements(ctx_, u.split(1, prefix), in.slice(1, 0, prefix));
    for (std::int64_t i = 0; i < n; ++i) {
      const Slot& slot = slots_[static_cast<std::size_t>(rows->slots[static_cast<std::size_t>(i)])];
      const auto known = static_cast<std::int64_t>(slot.recent.size());
      for (std::int64_t k = 0; k < lookback; ++k) {
        // Position k of the lookback is token length - lookback + k; zeros before the sequence's start.
        const TensorView to = in.slice(0, i, 1).merge(0).slice(0, prefix + k, 1);
        const std::int64_t index = k - (lookback - known);
        if (index < 0) {
          fill(ctx_, to, 0.0F);
        } else {
          copy(ctx_.stream, model_.tensors().embed.slice(0, slot.recent[static_cast<std::size_t>(index)], 1), to);
        }
      }
    }
  }
  const std::vector<std::int32_t> first(static_cast<std::size_t>(n), 0);
  model_.level(l).decoder.step(ctx_, arena_, level_tensors(l).decoder, in, local_cache(l, n), indices, first, y);
}

void PhotonDecoder::local_next(std::int64_t l, std::int64_t j, const ConstTensorView& content,
                               std::span<const std::int32_t> indices, const TensorView& y) {
  const std::int64_t n = content.size(0);
  const auto position = static_cast<std::int32_t>(level_config(l).prefix + config_.level_lookback(l) + j);
  const std::vector<std::int32_t> first(static_cast<std::size_t>(n), position);
  model_.level(l).decoder.step(ctx_, arena_, level_tensors(l).decoder, content.reshape({n, 1, config_.width(l - 1)}),
                               local_cache(l, n), indices, first, y);
}

std::vector<std::int32_t> PhotonDecoder::choose_tokens(const ConstTensorView& y, std::int64_t offset,
                                                       TokenChooser& chooser, const TensorView& x) {
  const ArenaScope scope(arena_);
  const std::int64_t n = y.size(0);
  TensorView logits;
  if (chooser.needs_logits(offset)) {
    logits = arena_.allocate(DType::f32, {n, config_.vocab_size});
    linear_forward(ctx_, y.reshape({n, config_.dim}), model_.tensors().head, logits);
  }
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(n), 0);
  chooser.choose(offset, logits, tokens);
  embedding_forward(ctx_, model_.tensors().embed, upload(ctx_, arena_, tokens), x);
  return tokens;
}

void PhotonDecoder::advance_encoder(std::int64_t l, const Rows& rows, const ConstTensorView& units,
                                    const TensorView& x) {
  const ArenaScope scope(arena_);
  const std::int64_t n = rows.count();
  const TensorView a = floats(arena_, {n, config_.width(l)});
  linear_forward(ctx_, units.merge(1), level_tensors(l).chunker, a);
  std::vector<std::int32_t> first;
  for (const std::int64_t slot : rows.slots)
    first.push_back(slots_[static_cast<std::size_t>(slot)].units[static_cast<std::size_t>(l - 1)]++);
  model_.level(l).encoder.step(ctx_, arena_, level_tensors(l).encoder, a.split(0, n),
                               encoder_caches_[static_cast<std::size_t>(l - 1)], rows.ids, first, x.split(0, n));
}

void PhotonDecoder::decode_group(std::int64_t l, const Rows& rows, const ConstTensorView& c, std::int64_t offset,
                                 TokenChooser& chooser, const TensorView& x) {
  const ArenaScope scope(arena_);
  const std::int64_t n = rows.count();
  const std::int64_t chunk = level_config(l).chunk;
  const std::int64_t below = config_.width(l - 1);
  const TensorView y = floats(arena_, {n, 1, below});
  const TensorView unit = floats(arena_, {n, below});
  const TensorView units = floats(arena_, {n, chunk, below});
  std::vector<std::vector<std::int32_t>> tokens;
  local_start(l, c, rows.indices, &rows, y);
  for (std::int64_t j = 0; j < chunk; ++j) {
    if (l == 1) {
      tokens.push_back(choose_tokens(y, offset + j, chooser, unit));
    } else {
      decode_group(l - 1, rows, y.reshape({n, below}), offset + j * config_.cumulative_chunk(l - 1), chooser, unit);
    }
    copy_elements(ctx_, unit, units.slice(1, j, 1).merge(1));
    if (j + 1 < chunk) local_next(l, j, unit, rows.indices, y);
  }
  for (std::int64_t i = 0; i < n && config_.level_lookback(l) > 0; ++i) {
    std::deque<std::int32_t>& recent = slots_[static_cast<std::size_t>(rows.slots[static_cast<std::size_t>(i)])].recent;
    for (const auto& step : tokens) recent.push_back(step[static_cast<std::size_t>(i)]);
    while (static_cast<std::int64_t>(recent.size()) > config_.lookback) recent.pop_front();
  }
  advance_encoder(l, rows, units, x);
}

void PhotonDecoder::step_group(std::span<const std::int64_t> slots, TokenChooser& chooser) {
  if (slots.empty()) return;
  const Rows rows = make_rows(slots);
  for (const std::int64_t slot : slots) {
    const Slot& s = slots_[static_cast<std::size_t>(slot)];
    PHOTON_EXPECT(!s.coarse_only, "slot {} was rolled out: its lower encoders have stopped", slot);
    PHOTON_EXPECT(s.length + group_tokens() <= max_tokens_, "slot {} is full: {} tokens", slot, s.length);
  }
  const std::int64_t num_levels = config_.num_levels();
  reserve_step(rows.count());
  const ArenaScope scope(arena_);
  const TensorView c = floats(arena_, {rows.count(), config_.width(num_levels)});
  const TensorView x = floats(arena_, c.shape());
  gather_latents(rows, c);
  decode_group(num_levels, rows, c, 0, chooser, x);
  scatter_latents(rows, x);
}

void PhotonDecoder::render_own(std::int64_t l, const ConstTensorView& c, const TensorView& y) {
  const ArenaScope scope(arena_);
  const std::int64_t n = c.size(0);
  const std::vector<std::int32_t> indices = iota(n);
  const TensorView unit = floats(arena_, {n, 1, config_.width(l - 1)});
  local_start(l, c, indices, nullptr, unit);
  for (std::int64_t j = 0; j < level_config(l).chunk; ++j) {
    copy_elements(ctx_, unit, y.slice(1, j, 1));
    if (j + 1 < level_config(l).chunk) local_next(l, j, unit.merge(1), indices, unit);
  }
}

Tensor PhotonDecoder::roll_out(std::span<const std::int64_t> slots, std::int64_t num_groups) {
  require_recgen(config_);
  const Rows rows = make_rows(slots);
  const std::int64_t n = rows.count();
  const std::int64_t top = config_.num_levels();
  const std::int64_t chunk = level_config(top).chunk;
  for (const std::int64_t slot : slots) {
    Slot& s = slots_[static_cast<std::size_t>(slot)];
    PHOTON_EXPECT(s.length + num_groups * group_tokens() <= max_tokens_, "slot {} has no room for {} groups", slot,
                  num_groups);
    s.coarse_only = true;
  }
  Tensor current(ctx_.space, model_.dtype(), {n, num_groups * chunk, config_.width(top - 1)}, "coarse roll-out");
  reserve_step(n);
  for (std::int64_t g = 0; g < num_groups && n > 0; ++g) {
    const ArenaScope scope(arena_);
    const TensorView c = floats(arena_, {n, config_.width(top)});
    const TensorView x = floats(arena_, c.shape());
    const TensorView y = floats(arena_, {n, chunk, config_.width(top - 1)});
    gather_latents(rows, c);
    render_own(top, c, y);
    copy_elements(ctx_, y, current.view().slice(1, g * chunk, chunk));
    advance_encoder(top, rows, y, x);
    scatter_latents(rows, x);
  }
  // The levels between: every group of every row side by side, a bounded number at a time.
  constexpr std::int64_t max_rows = 1024;
  for (std::int64_t l = top - 1; l >= 2; --l) {
    const std::int64_t groups = current.shape()[1];
    Tensor next(ctx_.space, model_.dtype(), {n, groups * level_config(l).chunk, config_.width(l - 1)},
                "coarse roll-out");
    const TensorView c = current.view().merge(0);
    const TensorView y = next.view().reshape({n * groups, level_config(l).chunk, config_.width(l - 1)});
    for (std::int64_t begin = 0; begin < n * groups; begin += max_rows) {
      const std::int64_t count = std::min(max_rows, n * groups - begin);
      reserve_step(count);
      render_own(l, c.slice(0, begin, count), y.slice(0, begin, count));
    }
    current = std::move(next);
  }
  return current;
}

void PhotonDecoder::decode_chunks(const ConstTensorView& conditioning, TokenChooser& chooser) {
  require_recgen(config_);
  const std::int64_t n = conditioning.size(0);
  if (n == 0) return;
  reserve_step(n);
  const ArenaScope scope(arena_);
  const std::vector<std::int32_t> indices = iota(n);
  const TensorView y = floats(arena_, {n, 1, config_.dim});
  const TensorView unit = floats(arena_, {n, config_.dim});
  local_start(1, conditioning, indices, nullptr, y);
  for (std::int64_t j = 0; j < level_config(1).chunk; ++j) {
    choose_tokens(y, j, chooser, unit);
    if (j + 1 < level_config(1).chunk) local_next(1, j, unit, indices, y);
  }
}

}  // namespace photon
