#include "model/vanilla_decoder.hpp"

#include <algorithm>

#include "kernels/embedding.hpp"
#include "kernels/linear.hpp"
#include "kernels/slot_rows.hpp"
#include "kernels/top_tokens.hpp"
#include "model/photon_model.hpp"

namespace photon {
namespace {

constexpr std::size_t slot_index = 0;
constexpr std::size_t position_index = 1;
constexpr std::int64_t num_step_indices = 2;

}  // namespace

VanillaDecoder::VanillaDecoder(VanillaModel& model, const Context& ctx, std::int64_t num_slots, std::int64_t max_tokens,
                               const DecoderOptions& options)
    : model_(model),
      ctx_(ctx),
      dtype_(model.dtype()),
      max_tokens_(std::max<std::int64_t>(max_tokens, 1)),
      lengths_(static_cast<std::size_t>(num_slots), 0),
      stack_(model.config().stack, model.config().dim, model.config().norm_eps, AttentionKind::stream),
      steps_(ctx, 1, num_step_indices, options) {
  const std::int64_t total = num_slots + (ctx.space == Space::device ? 1 : 0);
  stack_.reserve(ctx.space, max_tokens_);
  cache_ = stack_.make_cache(ctx.space, dtype_, total, max_tokens_);
  history_ = Tensor(ctx.space, DType::i32, {total, max_tokens_}, "tokens of the slots");
}

std::int64_t VanillaDecoder::cache_bytes() const {
  return num_slots() * slot_cache_bytes(model_.config(), max_tokens_, dtype_);
}

void VanillaDecoder::copy_slot(std::int64_t from, std::int64_t to) {
  if (from == to) return;
  lengths_.at(static_cast<std::size_t>(to)) = lengths_.at(static_cast<std::size_t>(from));
  cache_.copy_slot(ctx_, from, to);
  photon::copy_slot(ctx_, history_, from, to);
}

void VanillaDecoder::prefill(std::span<const std::int64_t> slots,
                             std::span<const std::span<const std::int32_t>> prompts) {
  PHOTON_EXPECT(slots.size() == prompts.size(), "{} prompts for {} slots", prompts.size(), slots.size());
  const auto n = static_cast<std::int64_t>(slots.size());
  std::int64_t longest = 0;
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> lengths;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(prompts[i].size());
    PHOTON_EXPECT(length <= max_tokens_, "a prompt of {} tokens with room for {}", length, max_tokens_);
    lengths_.at(static_cast<std::size_t>(slots[i])) = length;
    ids.push_back(static_cast<std::int32_t>(slots[i]));
    lengths.push_back(static_cast<std::int32_t>(length));
    longest = std::max(longest, length);
  }
  if (longest == 0) return;
  const std::int64_t dim = model_.config().dim;
  // The model reads the start token and all but the last; the last one is the next step's input.
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(n * longest), 0);
  std::vector<std::int32_t> inputs = tokens;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) continue;
    const auto row = static_cast<std::ptrdiff_t>(i) * longest;
    std::copy(prompts[i].begin(), prompts[i].end(), tokens.begin() + row);
    inputs[static_cast<std::size_t>(row)] = model_.start_token();
    std::copy(prompts[i].begin(), prompts[i].end() - 1, inputs.begin() + row + 1);
  }
  const std::int64_t bytes = 2 * arena_bytes(n * longest, 4) + 2 * arena_bytes(n, 4) +
                             2 * arena_bytes(n * longest * dim, element_bytes(dtype_)) +
                             stack_.prefill_bytes(n, longest, element_bytes(dtype_));
  if (prefill_arena_.capacity() < bytes && ctx_.space == Space::device) device::synchronize(ctx_.stream);
  ensure_arena(prefill_arena_, ctx_.space, bytes, "encoding prompts");
  clock_.measure(ctx_, [&] {
    Arena& arena = prefill_arena_;
    const ArenaScope scope(arena);
    const auto upload_values = [&](const std::vector<std::int32_t>& values) {
      const TensorView there = arena.allocate(DType::i32, {static_cast<std::int64_t>(values.size())});
      copy(ctx_.stream, host_view(values.data(), there.shape()), there);
      return there;
    };
    const TensorView slot = upload_values(ids);
    scatter_rows(ctx_, upload_values(tokens).reshape({n, longest}), slot, history_.view().slice(1, 0, longest));
    const TensorView x = arena.allocate(dtype_, {n, longest, dim});
    const TensorView y = arena.allocate(dtype_, {n, longest, dim});
    embedding_forward(ctx_, model_.tensors().embed, upload_values(inputs), x.reshape({n * longest, dim}));
    stack_.prefill(ctx_, arena, model_.tensors().stack, x, cache_, slot, upload_values(lengths), y);
  });
}

void VanillaDecoder::reserve(std::int64_t rows) {
  const ModelConfig& config = model_.config();
  const std::int64_t bytes = 2 * arena_bytes(rows, 4) + 2 * arena_bytes(rows * config.dim, element_bytes(dtype_)) +
                             arena_bytes(rows * config.vocab_size, 4) +
                             stack_.step_bytes(rows, 1, element_bytes(dtype_));
  if (arena_.capacity() >= bytes) return;
  if (ctx_.space == Space::device) device::synchronize(ctx_.stream);
  steps_.forget_graphs();
  ensure_arena(arena_, ctx_.space, bytes, "decoding");
}

void VanillaDecoder::run(const StepBlock& block) {
  const ArenaScope scope(arena_);
  const ModelConfig& config = model_.config();
  const std::int64_t n = block.rows;
  const TensorView input = arena_.allocate(DType::i32, {n, 1});
  const TensorView next = arena_.allocate(DType::i32, {n});
  const TensorView x = arena_.allocate(dtype_, {n, config.dim});
  const TensorView y = arena_.allocate(dtype_, {n, config.dim});
  recent_tokens(ctx_, history_, block.indices[slot_index], block.indices[position_index], 0, model_.start_token(),
                input);
  embedding_forward(ctx_, model_.tensors().embed, input.merge(0), x);
  stack_.step(ctx_, arena_, model_.tensors().stack, x, cache_, block.indices[slot_index], block.indices[position_index],
              y);
  DrawCall call;
  if (block.needs_logits[0] || watched_) {
    call.logits = arena_.allocate(DType::f32, {n, config.vocab_size});
    step_linear(ctx_, y, model_.head_weight(), call.logits);
    if (watched_) show_logits(ctx_, call.logits, 0, 0);
    if (block.top_tokens[0]) top_tokens(ctx_, call.logits, block.top_tokens[0], block.top_logprobs[0]);
  }
  call.rows = block.draws;
  call.forced = block.forced[0];
  call.history = history_;
  call.tokens = next;
  call.chosen = block.chosen[0];
  call.logprobs = block.logprobs[0];
  draw_tokens(ctx_, call);
}

void VanillaDecoder::step_group(const GroupStep& step) {
  const auto n = static_cast<std::int64_t>(step.slots.size());
  if (n == 0) return;
  PHOTON_EXPECT(step.forced.size() == step.slots.size() && step.draws.size() == step.slots.size(),
                "a step of {} rows with {} tokens and {} draws", n, step.forced.size(), step.draws.size());
  const auto spare = static_cast<std::int32_t>(num_slots());
  StepInput input;
  input.indices.resize(num_step_indices);
  input.padding = {spare, 0};
  input.padding_draw.slot = spare;
  input.forced.assign(step.forced.begin(), step.forced.end());
  for (std::size_t i = 0; i < step.slots.size(); ++i) {
    const std::int64_t slot = step.slots[i];
    std::int64_t& length = lengths_.at(static_cast<std::size_t>(slot));
    PHOTON_EXPECT(length < max_tokens_, "slot {} is full: {} tokens", slot, length);
    input.indices[slot_index].push_back(static_cast<std::int32_t>(slot));
    input.indices[position_index].push_back(static_cast<std::int32_t>(length));
    DrawRow draw = draw_row(step.draws[i].options, step.draws[i].key, slot);
    draw.position = length;
    input.draws.push_back(draw);
    ++length;
  }
  reserve(steps_.padded(ctx_.space == Space::device ? num_slots() : n));
  steps_.run(input, !watched_, [&](const StepBlock& block) { run(block); });
  watched_ = TensorView();
}

ConstTensorView VanillaDecoder::roll_out(std::span<const std::int64_t>, std::int64_t) {
  require_recgen(model_.config());
  return {};
}

void VanillaDecoder::start_chunks(const ConstTensorView&, const ChunkStep&) {
  require_recgen(model_.config());
}

StepResult VanillaDecoder::take_chunks() {
  return {};
}

}  // namespace photon
