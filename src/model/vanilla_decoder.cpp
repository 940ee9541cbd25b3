#include "model/vanilla_decoder.hpp"

#include <algorithm>

#include "kernels/embedding.hpp"
#include "kernels/linear.hpp"
#include "model/photon_model.hpp"

namespace photon {

VanillaDecoder::VanillaDecoder(VanillaModel& model, const Context& ctx, std::int64_t num_slots, std::int64_t max_tokens)
    : model_(model),
      ctx_(ctx),
      max_tokens_(std::max<std::int64_t>(max_tokens, 1)),
      slots_(static_cast<std::size_t>(num_slots), Slot{0, model.start_token()}),
      cache_(model.stack().make_cache(ctx.space, num_slots, max_tokens_)) {}

void VanillaDecoder::clear(std::int64_t slot) {
  slots_.at(static_cast<std::size_t>(slot)) = {0, model_.start_token()};
}

void VanillaDecoder::copy_slot(std::int64_t from, std::int64_t to) {
  if (from == to) return;
  slots_.at(static_cast<std::size_t>(to)) = slots_.at(static_cast<std::size_t>(from));
  for (std::size_t i = 0; i < cache_.k.size(); ++i) {
    copy(ctx_.stream, cache_.k[i].view().slice(0, from, 1), cache_.k[i].view().slice(0, to, 1));
    copy(ctx_.stream, cache_.v[i].view().slice(0, from, 1), cache_.v[i].view().slice(0, to, 1));
  }
}

void VanillaDecoder::prefill(std::span<const std::int64_t> slots,
                             std::span<const std::span<const std::int32_t>> prompts) {
  PHOTON_EXPECT(slots.size() == prompts.size(), "{} prompts for {} slots", prompts.size(), slots.size());
  const auto n = static_cast<std::int64_t>(slots.size());
  std::int64_t longest = 0;
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> lengths;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(prompts[i].size());
    PHOTON_EXPECT(length <= max_tokens_, "a prompt of {} tokens with room for {}", length, max_tokens_);
    clear(slots[i]);
    ids.push_back(static_cast<std::int32_t>(slots[i]));
    lengths.push_back(length);
    longest = std::max(longest, length);
  }
  if (longest == 0) return;
  const std::int64_t dim = model_.config().dim;
  const DType dtype = model_.dtype();
  const std::int64_t element = element_bytes(dtype);
  std::vector<std::int32_t> inputs(static_cast<std::size_t>(n * longest), 0);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) continue;
    const auto row = inputs.begin() + static_cast<std::ptrdiff_t>(i) * longest;
    *row = model_.start_token();
    std::copy(prompts[i].begin(), prompts[i].end() - 1, row + 1);
    slots_[static_cast<std::size_t>(slots[i])] = {lengths[i], prompts[i].back()};
  }
  const std::int64_t bytes =
      arena_bytes(n * longest, 4) + 2 * arena_bytes(n * longest * dim, element) +
      stack_inference_bytes(model_.config().stack, dim, AttentionKind::stream, {n, longest, longest}, element);
  ensure_arena(arena_, ctx_.space, bytes, "encoding prompts");
  const ArenaScope scope(arena_);
  const TensorView x = arena_.allocate(dtype, {n, longest, dim});
  const TensorView y = arena_.allocate(dtype, {n, longest, dim});
  embedding_forward(ctx_, model_.embedding(), upload(ctx_, arena_, inputs), x.reshape({n * longest, dim}));
  model_.stack().prefill(ctx_, arena_, model_.weights(), x, cache_, ids, lengths, y);
}

void VanillaDecoder::step_group(std::span<const std::int64_t> slots, TokenChooser& chooser) {
  if (slots.empty()) return;
  const auto n = static_cast<std::int64_t>(slots.size());
  const ModelConfig& config = model_.config();
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> first;
  for (const std::int64_t slot : slots) {
    const Slot& s = slots_.at(static_cast<std::size_t>(slot));
    PHOTON_EXPECT(s.length < max_tokens_, "slot {} is full: {} tokens", slot, s.length);
    ids.push_back(static_cast<std::int32_t>(slot));
    inputs.push_back(s.pending);
    first.push_back(static_cast<std::int32_t>(s.length));
  }
  const std::int64_t bytes =
      arena_bytes(n, 4) + 2 * arena_bytes(n * config.dim, element_bytes(model_.dtype())) +
      arena_bytes(n * config.vocab_size, 4) +
      stack_inference_bytes(config.stack, config.dim, AttentionKind::stream, {n, 1, 1}, element_bytes(model_.dtype()));
  ensure_arena(arena_, ctx_.space, bytes, "decoding");
  const ArenaScope scope(arena_);
  const TensorView x = arena_.allocate(model_.dtype(), {n, 1, config.dim});
  const TensorView y = arena_.allocate(model_.dtype(), {n, 1, config.dim});
  embedding_forward(ctx_, model_.embedding(), upload(ctx_, arena_, inputs), x.merge(0));
  model_.stack().step(ctx_, arena_, model_.weights(), x, cache_, ids, first, y);
  TensorView logits;
  if (chooser.needs_logits(0)) {
    logits = arena_.allocate(DType::f32, {n, config.vocab_size});
    linear_forward(ctx_, y.merge(0), model_.head_weight(), logits);
  }
  std::vector<std::int32_t> tokens(slots.size(), 0);
  chooser.choose(0, logits, tokens);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    Slot& s = slots_[static_cast<std::size_t>(slots[i])];
    s.pending = tokens[i];
    ++s.length;
  }
}

Tensor VanillaDecoder::roll_out(std::span<const std::int64_t>, std::int64_t) {
  require_recgen(model_.config());
  return {};
}

void VanillaDecoder::decode_chunks(const ConstTensorView&, TokenChooser&) {
  require_recgen(model_.config());
}

}  // namespace photon
