#include "model/photon_decoder.hpp"

#include <algorithm>

#include "kernels/embedding.hpp"
#include "kernels/linear.hpp"
#include "kernels/slot_rows.hpp"

namespace photon {
namespace {

// A step's indices: these, then the positions of the encoders' units.
constexpr std::size_t slot_index = 0;
constexpr std::size_t position_index = 1;
constexpr std::size_t latent_index = 2;
constexpr std::size_t lower_index = 3;  // of the caches below the top
constexpr std::size_t first_unit_index = 4;

std::int64_t num_step_indices(const ModelConfig& config) {
  std::int64_t count = first_unit_index;
  for (std::int64_t l = 1; l <= config.num_levels(); ++l) count += config.group_tokens() / config.cumulative_chunk(l);
  return count;
}

// Rows of a [n, C, D] tensor's unit j: [n, D].
TensorView unit_rows(const TensorView& units, std::int64_t j) {
  return units.slice(1, j, 1).merge(1);
}

}  // namespace

PhotonDecoder::PhotonDecoder(const ModelConfig& config, const PhotonTensors& weights, DType dtype, const Context& ctx,
                             std::int64_t num_slots, std::int64_t max_tokens, const DecoderOptions& options)
    : config_(config),
      weights_(weights),
      ctx_(ctx),
      dtype_(dtype),
      num_slots_(num_slots),
      total_slots_(num_slots + (ctx.space == Space::device ? 1 : 0)),
      lower_rows_(options.prompt_rows > 0 ? std::min(options.prompt_rows, num_slots) : num_slots),
      max_tokens_(config_.padded_length(std::max<std::int64_t>(max_tokens, 1))),
      slots_(static_cast<std::size_t>(num_slots)),
      steps_(ctx, config_.group_tokens(), num_step_indices(config_), options),
      chunks_(ctx, config_.cumulative_chunk(1), 1, options),
      graphs_(options.graphs) {
  const std::int64_t num_levels = config_.num_levels();
  for (std::int64_t l = 1; l <= num_levels; ++l) {
    const LevelConfig& c = level_config(l);
    const std::int64_t units = max_tokens_ / config_.cumulative_chunk(l);
    encoders_.emplace_back(c.encoder, c.dim, config_.norm_eps, AttentionKind::stream);
    encoder(l).reserve(ctx.space, units);
    if (l > 1) locals_.emplace_back(config_, l, level_tensors(l), ctx, dtype_);
    const std::int64_t window = c.encoder.window;
    const std::int64_t rows = l == num_levels ? total_slots_ : lower_rows_ + (total_slots_ - num_slots_);
    encoder_caches_.push_back(
        encoder(l).make_cache(ctx.space, dtype_, rows, window > 0 ? std::min(window, units) : units));
  }
  if (lower_rows_ < num_slots_) {
    for (std::int64_t row = lower_rows_ - 1; row >= 0; --row) free_lower_.push_back(row);
  }
  latents_ = Tensor(ctx.space, dtype_, {total_slots_ + 1, config_.width(num_levels)}, "top-level latents");
  copy(ctx_.stream, weights_.start_latent, latents_.view().slice(0, total_slots_, 1).merge(0));
  if (!weights_.head) return;
  chunk_.emplace(config_, weights_, ctx, dtype_);
  history_ = Tensor(ctx.space, DType::i32, {total_slots_, max_tokens_}, "tokens of the slots");
}

std::int64_t PhotonDecoder::cache_bytes() const {
  return num_slots_ * slot_cache_bytes(config_, max_tokens_, dtype_) -
         (num_slots_ - lower_rows_) * lower_cache_bytes(config_, max_tokens_, element_bytes(dtype_));
}

std::int64_t PhotonDecoder::checked(std::int64_t slot) const {
  PHOTON_EXPECT(slot >= 0 && slot < num_slots_, "slot {} of {}", slot, num_slots_);
  return slot;
}

std::int32_t PhotonDecoder::lower_row(std::int64_t slot) {
  if (lower_rows_ == num_slots_) return static_cast<std::int32_t>(slot);
  std::int64_t& row = slots_[static_cast<std::size_t>(slot)].lower;
  if (row < 0) {
    PHOTON_EXPECT(!free_lower_.empty(), "more than {} prompts that are not finished", lower_rows_);
    row = free_lower_.back();
    free_lower_.pop_back();
  }
  return static_cast<std::int32_t>(row);
}

void PhotonDecoder::finish_prompt(std::int64_t slot) {
  std::int64_t& row = slots_[static_cast<std::size_t>(checked(slot))].lower;
  if (row >= 0) free_lower_.push_back(row);
  row = -1;
}

std::int32_t PhotonDecoder::latent_row(std::int64_t slot) const {
  return static_cast<std::int32_t>(length(slot) == 0 ? total_slots_ : slot);
}

std::size_t PhotonDecoder::unit_index(std::int64_t l, std::int64_t unit) const {
  std::size_t index = first_unit_index + static_cast<std::size_t>(unit);
  for (std::int64_t below = 1; below < l; ++below)
    index += static_cast<std::size_t>(group_tokens() / config_.cumulative_chunk(below));
  return index;
}

std::int64_t PhotonDecoder::step_bytes(std::int64_t rows) const {
  const std::int64_t element = element_bytes(dtype_);
  std::int64_t bytes = 2 * arena_bytes(rows * config_.width(config_.num_levels()), element);
  std::int64_t call = chunk_ ? chunk_->call_bytes(rows) : 0;
  for (std::int64_t l = 1; l <= config_.num_levels(); ++l) {
    const LevelConfig& c = level_config(l);
    const std::int64_t below = config_.width(l - 1);
    const auto at = static_cast<std::size_t>(l - 1);
    // A reconstruction, all units, the chunk.
    bytes += arena_bytes(rows * below, element) + arena_bytes(rows * c.chunk * below, element) +
             arena_bytes(rows * c.dim, element);
    call = std::max(call, encoders_[at].step_bytes(rows, 1, element));
    if (l > 1) call = std::max(call, locals_[at - 1].call_bytes(rows));
  }
  return bytes + call;
}

void PhotonDecoder::reserve(std::int64_t rows, bool level_1_only) {
  std::int64_t& reserved = level_1_only ? level_1_rows_ : rows_;
  if (rows <= reserved) return;
  if (on_device()) device::synchronize(ctx_.stream);
  steps_.forget_graphs();
  chunks_.forget_graphs();
  recorded_rolls_.clear();
  reserved = rows;
  std::int64_t bytes = step_bytes(rows_);
  if (chunk_) {
    const std::int64_t chunk_bytes =
        arena_bytes(level_1_rows_ * config_.width(1), element_bytes(dtype_)) + chunk_->call_bytes(level_1_rows_);
    bytes = std::max(bytes, chunk_bytes);
    chunk_->reserve(std::max(rows_, level_1_rows_));
  }
  ensure_arena(arena_, ctx_.space, bytes, "decoding");
  for (LocalDecoder& decoder : locals_) decoder.reserve(rows_);
}

void PhotonDecoder::clear(std::int64_t slot) {
  finish_prompt(slot);
  slots_[static_cast<std::size_t>(checked(slot))] = Slot();
}

void PhotonDecoder::copy_slot(std::int64_t from, std::int64_t to) {
  if (from == to) return;
  PhotonDecoder::clear(to);
  Slot& copied = slots_[static_cast<std::size_t>(to)];
  copied = slots_[static_cast<std::size_t>(checked(from))];
  copied.lower = -1;
  encoder_caches_.back().copy_slot(ctx_, from, to);
  if (lower_rows_ == num_slots_ || slots_[static_cast<std::size_t>(from)].lower >= 0) {
    for (std::size_t l = 0; l + 1 < encoder_caches_.size(); ++l)
      encoder_caches_[l].copy_slot(ctx_, lower_row(from), lower_row(to));
  }
  photon::copy_slot(ctx_, latents_, from, to);
  if (chunk_) photon::copy_slot(ctx_, history_, from, to);
}

void PhotonDecoder::prefill(std::span<const std::int64_t> slots,
                            std::span<const std::span<const std::int32_t>> prompts) {
  PHOTON_EXPECT(slots.size() == prompts.size(), "{} prompts for {} slots", prompts.size(), slots.size());
  const std::int64_t num_levels = config_.num_levels();
  std::vector<std::int32_t> ids;  // of the slots with anything to encode
  std::vector<std::int32_t> lower_ids;
  std::vector<std::span<const std::int32_t>> rows;
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(prompts[i].size());
    PHOTON_EXPECT(length % group_tokens() == 0 && length <= max_tokens_,
                  "a prompt of {} tokens for groups of {} and room for {}", length, group_tokens(), max_tokens_);
    clear(slots[i]);
    if (length == 0) continue;
    ids.push_back(static_cast<std::int32_t>(slots[i]));
    lower_ids.push_back(lower_row(slots[i]));
    rows.push_back(prompts[i]);
    slots_[static_cast<std::size_t>(slots[i])].length = length;
    longest = std::max(longest, length);
  }
  if (ids.empty()) return;

  const auto n = static_cast<std::int64_t>(ids.size());
  std::vector<std::int32_t> padded(static_cast<std::size_t>(n * longest), 0);
  std::vector<std::int32_t> last;  // where the last group's X(L) stands
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy(rows[i].begin(), rows[i].end(), padded.begin() + static_cast<std::ptrdiff_t>(i) * longest);
    last.push_back(static_cast<std::int32_t>(
        (static_cast<std::int64_t>(i) * longest + static_cast<std::int64_t>(rows[i].size())) / group_tokens() - 1));
  }
  const std::int64_t element = element_bytes(dtype_);
  std::int64_t bytes = arena_bytes(n * longest, 4) + (3 + num_levels) * arena_bytes(n, 4) +
                       arena_bytes(n * config_.width(num_levels), element);
  std::int64_t stack = 0;
  for (std::int64_t l = 0; l <= num_levels; ++l) {
    const std::int64_t units = longest / config_.cumulative_chunk(l);
    bytes += 2 * arena_bytes(n * units * config_.width(l), element);
    if (l > 0) stack = std::max(stack, encoder(l).prefill_bytes(n, units, element));
  }
  if (prefill_arena_.capacity() < bytes + stack && ctx_.space == Space::device) device::synchronize(ctx_.stream);
  ensure_arena(prefill_arena_, ctx_.space, bytes + stack, "encoding prompts");
  clock_.measure(ctx_, [&] {
    Arena& arena = prefill_arena_;
    const ArenaScope scope(arena);
    const auto upload = [&](const std::vector<std::int32_t>& values) {
      const TensorView there = arena.allocate(DType::i32, {static_cast<std::int64_t>(values.size())});
      copy(ctx_.stream, host_view(values.data(), there.shape()), there);
      return there;
    };
    const TensorView slot = upload(ids);
    const TensorView lower = upload(lower_ids);
    const TensorView tokens = upload(padded);
    if (chunk_) scatter_rows(ctx_, tokens.reshape({n, longest}), slot, history_.view().slice(1, 0, longest));
    TensorView below = arena.allocate(dtype_, {n * longest, config_.dim});
    embedding_forward(ctx_, weights_.embed, tokens, below);
    for (std::int64_t l = 1; l <= num_levels; ++l) {
      const LevelTensors& w = level_tensors(l);
      const std::int64_t units = longest / config_.cumulative_chunk(l);
      std::vector<std::int32_t> lengths;
      for (const auto& row : rows)
        lengths.push_back(
            static_cast<std::int32_t>(static_cast<std::int64_t>(row.size()) / config_.cumulative_chunk(l)));
      const TensorView a = arena.allocate(dtype_, {n, units, config_.width(l)});
      const TensorView x = arena.allocate(dtype_, a.shape());
      linear_forward(ctx_, below.reshape({n * units, w.chunker.size(1)}), w.chunker, a.merge(0));
      encoder(l).prefill(ctx_, arena, w.encoder, a, encoder_caches_[static_cast<std::size_t>(l - 1)],
                         l == num_levels ? slot : lower, upload(lengths), x);
      below = x.merge(0);
    }
    const TensorView latents = arena.allocate(dtype_, {n, config_.width(num_levels)});
    embedding_forward(ctx_, below, upload(last), latents);
    scatter_rows(ctx_, latents, slot, latents_.view());
  });
}

ChunkCall PhotonDecoder::chunk_call(const StepBlock& block, std::int64_t offset) const {
  ChunkCall call;
  call.history = history_;
  call.slot = block.indices[slot_index];
  call.position = block.indices[position_index];
  call.offset = offset;
  if (watched_) {
    call.watch = [this](const ConstTensorView& logits, std::int64_t begin, std::int64_t at) {
      show_logits(ctx_, logits, begin, at);
    };
  }
  return call;
}

void PhotonDecoder::advance_encoder(std::int64_t l, const ConstTensorView& units, const ConstTensorView& slot,
                                    const ConstTensorView& first, const TensorView& x) {
  const ArenaScope scope(arena_);
  const TensorView a = arena_.allocate(dtype_, {units.size(0), config_.width(l)});
  step_linear(ctx_, units.merge(1), level_tensors(l).chunker, a);
  encoder(l).step(ctx_, arena_, level_tensors(l).encoder, a, encoder_caches_[static_cast<std::size_t>(l - 1)], slot,
                  first, x);
}

void PhotonDecoder::decode_group(std::int64_t l, const StepBlock& block, const ConstTensorView& c, std::int64_t offset,
                                 const TensorView& x) {
  const ArenaScope scope(arena_);
  const std::int64_t n = c.size(0);
  const std::int64_t chunk = level_config(l).chunk;
  const std::int64_t below = config_.width(l - 1);
  const TensorView units = arena_.allocate(dtype_, {n, chunk, below});
  if (l == 1) {
    chunk_->decode(arena_, block, c, chunk_call(block, offset), units);
  } else {
    const TensorView y = arena_.allocate(dtype_, {n, below});
    local(l).start(arena_, c, {}, {}, y);
    for (std::int64_t j = 0; j < chunk; ++j) {
      const TensorView unit = unit_rows(units, j);
      decode_group(l - 1, block, y, offset + j * config_.cumulative_chunk(l - 1), unit);
      if (j + 1 < chunk) local(l).next(arena_, j, unit, y);
    }
  }
  advance_encoder(l, units, block.indices[l == config_.num_levels() ? slot_index : lower_index],
                  block.indices[unit_index(l, offset / config_.cumulative_chunk(l))], x);
}

void PhotonDecoder::step_group(const GroupStep& step) {
  const auto n = static_cast<std::int64_t>(step.slots.size());
  if (n == 0) return;
  PHOTON_EXPECT(
      static_cast<std::int64_t>(step.forced.size()) == n * group_tokens() && step.draws.size() == step.slots.size(),
      "a step of {} rows with {} tokens and {} draws", n, step.forced.size(), step.draws.size());
  const std::int64_t num_levels = config_.num_levels();
  StepInput input;
  input.indices.resize(static_cast<std::size_t>(num_step_indices(config_)));
  input.padding.assign(input.indices.size(), 0);
  const auto spare = static_cast<std::int32_t>(total_slots_ - 1);
  input.padding[slot_index] = spare;
  input.padding[latent_index] = static_cast<std::int32_t>(total_slots_);
  input.padding[lower_index] = static_cast<std::int32_t>(lower_rows_ + (total_slots_ - num_slots_) - 1);
  input.forced.assign(step.forced.begin(), step.forced.end());
  input.padding_draw.slot = spare;
  for (std::size_t i = 0; i < step.slots.size(); ++i) {
    const std::int64_t slot = checked(step.slots[i]);
    Slot& s = slots_[static_cast<std::size_t>(slot)];
    PHOTON_EXPECT(!s.coarse_only, "slot {} was rolled out: its lower encoders have stopped", slot);
    PHOTON_EXPECT(s.length + group_tokens() <= max_tokens_, "slot {} is full: {} tokens", slot, s.length);
    input.indices[slot_index].push_back(static_cast<std::int32_t>(slot));
    input.indices[position_index].push_back(static_cast<std::int32_t>(s.length));
    input.indices[latent_index].push_back(latent_row(slot));
    input.indices[lower_index].push_back(lower_row(slot));
    for (std::int64_t l = 1; l <= num_levels; ++l) {
      const std::int64_t units = group_tokens() / config_.cumulative_chunk(l);
      for (std::int64_t u = 0; u < units; ++u) {
        input.indices[unit_index(l, u)].push_back(
            static_cast<std::int32_t>(s.length / config_.cumulative_chunk(l) + u));
      }
    }
    DrawRow draw = draw_row(step.draws[i].options, step.draws[i].key, slot);
    draw.position = s.length;
    input.draws.push_back(draw);
    s.length += group_tokens();
  }
  reserve(steps_.padded(on_device() ? std::max(n, num_slots_) : n), false);
  steps_.run(input, !watched_, [&](const StepBlock& block) {
    const ArenaScope scope(arena_);
    const TensorView c = arena_.allocate(dtype_, {block.rows, config_.width(num_levels)});
    const TensorView x = arena_.allocate(dtype_, c.shape());
    embedding_forward(ctx_, latents_, block.indices[latent_index], c);
    decode_group(num_levels, block, c, 0, x);
    scatter_rows(ctx_, x, block.indices[slot_index], latents_.view());
  });
  watched_ = TensorView();
}

}  // namespace photon
