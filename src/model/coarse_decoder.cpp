#include "model/coarse_decoder.hpp"

#include <algorithm>
#include <utility>

#include "blueprint/activations.hpp"
#include "kernels/embedding.hpp"
#include "kernels/slot_rows.hpp"

namespace photon {
namespace {

// The first elements of a larger tensor.
TensorView front(const Tensor& tensor, const Shape& shape) {
  std::int64_t count = 1;
  for (int i = 0; i < shape.rank(); ++i) count *= shape[i];
  return tensor.view().slice(0, 0, count).reshape(shape);
}

}  // namespace

CoarseDecoder::CoarseDecoder(const ModelConfig& config, const PhotonTensors& weights, DType dtype, const Context& ctx,
                             std::int64_t num_slots, std::int64_t max_tokens, const DecoderOptions& options,
                             ChunkLink& link)
    : PhotonDecoder(config, weights, dtype, ctx, num_slots, max_tokens, options),
      link_(link),
      logprobs_(options.logprobs),
      top_logprobs_(options.top_logprobs),
      tokens_(static_cast<std::size_t>(num_slots)),
      cohorts_(static_cast<std::size_t>(link.num_cohorts())) {
  for (Cohort& cohort : cohorts_) {
    for (std::int64_t l = 2; l <= config_.num_levels(); ++l)
      cohort.locals.emplace_back(config_, l, level_tensors(l), ctx, dtype_);
    const auto levels = static_cast<std::size_t>(config_.num_levels());
    cohort.first_unit.resize(levels);
    cohort.c.resize(levels);
    cohort.units.resize(levels);
  }
}

std::int64_t CoarseDecoder::cache_bytes() const {
  return num_slots_ * coarse_cache_bytes(config_, max_tokens_, element_bytes(dtype_)) -
         (num_slots_ - lower_rows_) * lower_cache_bytes(config_, max_tokens_, element_bytes(dtype_));
}

void CoarseDecoder::clear(std::int64_t slot) {
  PhotonDecoder::clear(slot);
  tokens_of(slot).clear();
}

void CoarseDecoder::copy_slot(std::int64_t from, std::int64_t to) {
  PhotonDecoder::copy_slot(from, to);
  if (from != to) tokens_of(to) = tokens_of(from);
}

void CoarseDecoder::prefill(std::span<const std::int64_t> slots,
                            std::span<const std::span<const std::int32_t>> prompts) {
  PhotonDecoder::prefill(slots, prompts);
  for (std::size_t i = 0; i < slots.size(); ++i) tokens_of(slots[i]).assign(prompts[i].begin(), prompts[i].end());
}

void CoarseDecoder::reserve(Cohort& cohort, std::int64_t rows) {
  if (rows <= cohort.rows) return;
  if (on_device()) device::synchronize(ctx_.stream);
  cohort.rows = rows;
  for (LocalDecoder& decoder : cohort.locals) decoder.reserve(rows);
  ensure_arena(arena_, ctx_.space, std::max(arena_.capacity(), step_bytes(rows)), "decoding");
  recorded_rolls_.clear();
  cohort.slot = Tensor(ctx_.space, DType::i32, {rows}, "a step's slots");
  cohort.lower = Tensor(ctx_.space, DType::i32, {rows}, "a step's slots below the top");
  cohort.tokens = Tensor(ctx_.space, DType::i32, {rows * config_.cumulative_chunk(1)}, "a chunk's tokens");
  for (std::int64_t l = 1; l <= config_.num_levels(); ++l) {
    const auto at = static_cast<std::size_t>(l - 1);
    cohort.first_unit[at] = Tensor(ctx_.space, DType::i32, {rows}, "a step's units");
    cohort.c[at] = Tensor(ctx_.space, dtype_, {rows * config_.width(l)}, "a step's latents");
    cohort.units[at] =
        Tensor(ctx_.space, dtype_, {rows * level_config(l).chunk * config_.width(l - 1)}, "a step's units");
  }
}

std::size_t CoarseDecoder::free_cohort() const {
  std::size_t number = 0;
  while (number < cohorts_.size() && !cohorts_[number].slots.empty()) ++number;
  PHOTON_EXPECT(number < cohorts_.size(), "{} steps and {} calls of chunks wait for their results to be taken",
                order_.size(), chunk_order_.size());
  return number;
}

void CoarseDecoder::add_row(ChunkRows& rows, std::int64_t slot, std::int64_t position, const RowDraw& draw) {
  DrawRow row = draw_row(draw.options, draw.key, 0);
  row.position = position;
  const std::vector<std::int32_t>& tokens = tokens_of(slot);
  PHOTON_EXPECT(static_cast<std::int64_t>(tokens.size()) >= position, "slot {} has {} tokens before {}", slot,
                tokens.size(), position);
  const std::int64_t needed = row.repetition_penalty != 1.0 ? position : std::min(config_.lookback, position);
  rows.before.insert(rows.before.end(), tokens.begin() + (position - needed), tokens.begin() + position);
  rows.before_begin.push_back(static_cast<std::int64_t>(rows.before.size()));
  rows.draws.push_back(row);
}

TensorView CoarseDecoder::latents_of(const Cohort& cohort, std::int64_t l) const {
  return front(cohort.c[static_cast<std::size_t>(l - 1)],
               {static_cast<std::int64_t>(cohort.slots.size()), config_.width(l)});
}

TensorView CoarseDecoder::units_of(const Cohort& cohort, std::int64_t l) const {
  return front(cohort.units[static_cast<std::size_t>(l - 1)],
               {static_cast<std::int64_t>(cohort.slots.size()), level_config(l).chunk, config_.width(l - 1)});
}

TensorView CoarseDecoder::unit_of(const Cohort& cohort, std::int64_t l, std::int64_t j) const {
  return units_of(cohort, l).slice(1, j, 1).merge(1);
}

void CoarseDecoder::step_group(const GroupStep& step) {
  const auto n = static_cast<std::int64_t>(step.slots.size());
  if (n == 0) return;
  PHOTON_EXPECT(
      static_cast<std::int64_t>(step.forced.size()) == n * group_tokens() && step.draws.size() == step.slots.size(),
      "a step of {} rows with {} tokens and {} draws", n, step.forced.size(), step.draws.size());
  PHOTON_EXPECT(!watched_, "logits cannot be watched where others compute them");
  const std::size_t number = free_cohort();
  Cohort& cohort = cohorts_[number];
  ChunkRows rows;
  rows.num_tokens = group_tokens();
  rows.capacity = max_tokens_;
  rows.logprobs = logprobs_;
  rows.direct = direct();
  rows.top_logprobs = top_logprobs_;
  rows.forced.assign(step.forced.begin(), step.forced.end());
  rows.before_begin.push_back(0);
  std::vector<std::int32_t> latent;
  std::vector<std::int32_t> slot_ids;
  std::vector<std::int32_t> lower_ids;
  cohort.positions.clear();
  for (std::size_t i = 0; i < step.slots.size(); ++i) {
    const std::int64_t slot = checked(step.slots[i]);
    Slot& s = slots_[static_cast<std::size_t>(slot)];
    PHOTON_EXPECT(!s.coarse_only, "slot {} was rolled out: its lower encoders have stopped", slot);
    PHOTON_EXPECT(s.length + group_tokens() <= max_tokens_, "slot {} is full: {} tokens", slot, s.length);
    for (const std::size_t other : order_) {
      const std::vector<std::int64_t>& taken = cohorts_[other].slots;
      PHOTON_EXPECT(std::find(taken.begin(), taken.end(), slot) == taken.end(), "slot {} is in a step under way", slot);
    }
    slot_ids.push_back(static_cast<std::int32_t>(slot));
    lower_ids.push_back(lower_row(slot));
    latent.push_back(latent_row(slot));
    cohort.positions.push_back(s.length);
    add_row(rows, slot, s.length, step.draws[i]);
    s.length += group_tokens();
  }
  cohort.slots.assign(step.slots.begin(), step.slots.end());
  reserve(cohort, n);
  copy(ctx_.stream, host_view(slot_ids.data(), {n}), front(cohort.slot, {n}));
  copy(ctx_.stream, host_view(lower_ids.data(), {n}), front(cohort.lower, {n}));
  for (std::int64_t l = 1; l <= config_.num_levels(); ++l) {
    std::vector<std::int32_t> units;
    for (const std::int64_t position : cohort.positions)
      units.push_back(static_cast<std::int32_t>(position / config_.cumulative_chunk(l)));
    copy(ctx_.stream, host_view(units.data(), {n}), front(cohort.first_unit[static_cast<std::size_t>(l - 1)], {n}));
  }
  {
    // The first chunk's tokens come later: their place holds the rows of latents_ so long.
    const TensorView index = front(cohort.tokens, {n});
    copy(ctx_.stream, host_view(latent.data(), {n}), index);
    embedding_forward(ctx_, latents_, index, latents_of(cohort, config_.num_levels()));
  }
  cohort.offset = 0;
  cohort.done = false;
  cohort.result = StepResult();
  cohort.result.num_tokens = group_tokens();
  cohort.result.tokens.resize(static_cast<std::size_t>(n * group_tokens()));
  if (logprobs_) cohort.result.logprobs.resize(cohort.result.tokens.size());
  cohort.result.num_top = top_logprobs_;
  cohort.result.top_tokens.resize(cohort.result.tokens.size() * static_cast<std::size_t>(top_logprobs_));
  cohort.result.top_logprobs.resize(cohort.result.top_tokens.size());
  order_.push_back(number);
  link_.open(static_cast<std::int64_t>(number), rows);
  if (direct()) reserve_answers(number);
  descend(number);
}

void CoarseDecoder::reserve_answers(std::size_t number) {
  Cohort& cohort = cohorts_[number];
  cohort.parts.clear();
  const std::int64_t bytes =
      link_.answer_bytes(static_cast<std::int64_t>(number)) * (group_tokens() / config_.cumulative_chunk(1));
  if (on_device() && !cohort.embedded) {
    cohort.embedded.emplace();
    cohort.arrived.emplace();
  }
  if (cohort.answers.view() && cohort.answers.view().bytes() >= bytes) return;
  if (on_device()) {
    device::synchronize(ctx_.stream);
    cohort.read = PinnedBuffer(bytes, "a step's tokens");
  }
  cohort.answers = Tensor(ctx_.space, DType::u8, {bytes}, "a step's tokens");
}

void CoarseDecoder::descend(std::size_t number) {
  Cohort& cohort = cohorts_[number];
  for (std::int64_t l = config_.num_levels(); l > 1; --l) {
    LocalDecoder& decoder = cohort.locals[static_cast<std::size_t>(l - 2)];
    const std::int64_t within = cohort.offset % config_.cumulative_chunk(l);
    const TensorView y = latents_of(cohort, l - 1);
    if (within == 0) {
      decoder.start(arena_, latents_of(cohort, l), {}, {}, y);
    } else if (within % config_.cumulative_chunk(l - 1) == 0) {
      const std::int64_t j = within / config_.cumulative_chunk(l - 1) - 1;
      decoder.next(arena_, j, unit_of(cohort, l, j), y);
    } else {
      continue;  // in the middle of this level's unit
    }
    link_.advance();
  }
  link_.send(static_cast<std::int64_t>(number), cohort.offset, latents_of(cohort, 1));
}

void CoarseDecoder::embed_received(std::size_t number) {
  Cohort& cohort = cohorts_[number];
  const auto n = static_cast<std::int64_t>(cohort.slots.size());
  const std::int64_t chunk = config_.cumulative_chunk(1);
  const StepResult result = link_.receive(static_cast<std::int64_t>(number));
  std::vector<std::int32_t> read(result.tokens);  // what the model reads
  for (std::int64_t i = 0; i < n; ++i) {
    const auto from = static_cast<std::size_t>(i * chunk);
    const auto to = static_cast<std::size_t>(i * group_tokens() + cohort.offset);
    for (std::size_t t = 0; t < static_cast<std::size_t>(chunk); ++t) {
      if (read[from + t] == failed_token) read[from + t] = 0;
      cohort.result.tokens[to + t] = result.tokens[from + t];
      if (logprobs_) cohort.result.logprobs[to + t] = result.logprobs[from + t];
      const auto likeliest = static_cast<std::size_t>(top_logprobs_);
      for (std::size_t j = 0; j < likeliest; ++j) {
        cohort.result.top_tokens[(to + t) * likeliest + j] = result.top_tokens[(from + t) * likeliest + j];
        cohort.result.top_logprobs[(to + t) * likeliest + j] = result.top_logprobs[(from + t) * likeliest + j];
      }
    }
  }
  const TensorView ids = front(cohort.tokens, {n * chunk});
  copy(ctx_.stream, host_view(read.data(), {n * chunk}), ids);
  embedding_forward(ctx_, weights_.embed, ids, units_of(cohort, 1).merge(0));
}

void CoarseDecoder::embed_in_place(std::size_t number) {
  Cohort& cohort = cohorts_[number];
  const auto link_number = static_cast<std::int64_t>(number);
  // A host that ran further ahead would fill the device's queue, and wait there without a limit if a rank died.
  if (on_device()) link_.wait_until([&] { return cohort.embedded->reached(); });
  const std::int64_t bytes = link_.answer_bytes(link_number);
  const std::int64_t index = cohort.offset / config_.cumulative_chunk(1);
  cohort.parts.push_back(link_.receive_into(link_number, cohort.answers.view().slice(0, index * bytes, bytes)));
  for (const ChunkPart& part : cohort.parts.back()) {
    for (std::size_t t = 0; t < part.tokens.size(); ++t) {
      const std::int64_t rows = part.tokens[t].numel();
      const TensorView units = units_of(cohort, 1).slice(0, part.begin, rows).slice(1, static_cast<std::int64_t>(t), 1);
      // A row that failed reads nothing: nobody will look at what follows.
      embed_or_zero(ctx_, weights_.embed, part.tokens[t].reshape({rows, 1}), units);
    }
  }
  if (on_device()) cohort.embedded->record(ctx_.stream);
}

void CoarseDecoder::queue_answers(Cohort& cohort) {
  if (!on_device()) return;
  queue_read(ctx_.stream, cohort.answers, cohort.read.data());
  cohort.arrived->record(ctx_.stream);
}

void CoarseDecoder::read_answers(Cohort& cohort) {
  if (on_device()) link_.wait_until([&] { return cohort.arrived->reached(); });
  const auto* const device = static_cast<const std::byte*>(cohort.answers.view().data());
  const auto* const host = on_device() ? static_cast<const std::byte*>(cohort.read.data()) : device;
  const auto place = [&](const ConstTensorView& view) {
    return host + (static_cast<const std::byte*>(view.data()) - device);
  };
  const auto chunk = static_cast<std::size_t>(config_.cumulative_chunk(1));
  const auto group = static_cast<std::size_t>(group_tokens());
  for (std::size_t k = 0; k < cohort.parts.size(); ++k) {
    for (const ChunkPart& part : cohort.parts[k]) {
      const auto begin = static_cast<std::size_t>(part.begin);
      for (std::size_t t = 0; t < part.tokens.size(); ++t) {
        const auto* const tokens = reinterpret_cast<const std::int32_t*>(place(part.tokens[t]));
        const auto* const logprobs = logprobs_ ? reinterpret_cast<const float*>(place(part.logprobs[t])) : nullptr;
        for (std::size_t i = 0; i < static_cast<std::size_t>(part.tokens[t].numel()); ++i) {
          const std::size_t to = (begin + i) * group + k * chunk + t;
          cohort.result.tokens[to] = tokens[i];
          if (logprobs_) cohort.result.logprobs[to] = logprobs[i];
        }
      }
    }
  }
}

void CoarseDecoder::ascend(std::size_t number) {
  Cohort& cohort = cohorts_[number];
  const auto n = static_cast<std::int64_t>(cohort.slots.size());
  const std::int64_t chunk = config_.cumulative_chunk(1);
  const std::int64_t top = config_.num_levels();
  if (direct()) {
    embed_in_place(number);
  } else {
    embed_received(number);
  }
  const std::int64_t end = cohort.offset + chunk;
  const TensorView slot = front(cohort.slot, {n});
  const TensorView lower = front(cohort.lower, {n});
  for (std::int64_t l = 1; l <= top && end % config_.cumulative_chunk(l) == 0; ++l) {
    const TensorView first = front(cohort.first_unit[static_cast<std::size_t>(l - 1)], {n});
    const TensorView x =
        l == top
            ? latents_of(cohort, top)
            : unit_of(cohort, l + 1, cohort.offset % config_.cumulative_chunk(l + 1) / config_.cumulative_chunk(l));
    advance_encoder(l, units_of(cohort, l), l == top ? slot : lower, first, x);
    shift_indices(ctx_, first, 1);
    link_.advance();
  }
  if (end == group_tokens()) {
    scatter_rows(ctx_, latents_of(cohort, top), slot, latents_.view());
    if (direct()) queue_answers(cohort);
    cohort.done = true;
    return;
  }
  cohort.offset = end;
  descend(number);
}

StepResult CoarseDecoder::take_step() {
  if (order_.empty()) return {};
  Cohort& oldest = cohorts_[order_.front()];
  // In turn, so that there is work here whoever's tokens are being decoded.
  while (!oldest.done) {
    for (const std::size_t number : order_) {
      if (!cohorts_[number].done) ascend(number);
      if (oldest.done) break;
    }
  }
  order_.pop_front();
  if (direct()) read_answers(oldest);
  const auto group = static_cast<std::size_t>(group_tokens());
  for (std::size_t i = 0; i < oldest.slots.size(); ++i) {
    std::vector<std::int32_t>& tokens = tokens_of(oldest.slots[i]);
    for (std::size_t t = 0; t < group; ++t) {
      const std::int32_t token = oldest.result.tokens[i * group + t];
      tokens.push_back(token == failed_token ? 0 : token);
    }
  }
  oldest.slots.clear();
  return std::move(oldest.result);
}

void CoarseDecoder::start_chunks(const ConstTensorView& latents, const ChunkStep& step) {
  require_recgen(config_);
  const auto n = static_cast<std::int64_t>(step.slots.size());
  if (n == 0) return;
  PHOTON_EXPECT(!watched_, "logits cannot be watched where others compute them");
  const std::int64_t chunk = config_.cumulative_chunk(1);
  const std::size_t number = free_cohort();
  Cohort& cohort = cohorts_[number];
  ChunkRows rows;
  rows.num_tokens = chunk;
  rows.capacity = max_tokens_;
  rows.logprobs = logprobs_;
  rows.top_logprobs = top_logprobs_;
  rows.forced.assign(static_cast<std::size_t>(n * chunk), draw_token);
  if (!step.forced.empty()) rows.forced.assign(step.forced.begin(), step.forced.end());
  rows.before_begin.push_back(0);
  std::vector<std::int32_t> index;
  cohort.positions.clear();
  for (std::size_t i = 0; i < step.slots.size(); ++i) {
    const std::int64_t slot = checked(step.slots[i]);
    std::vector<std::int32_t>& tokens = tokens_of(slot);
    if (static_cast<std::int64_t>(tokens.size()) < length(slot)) tokens.resize(static_cast<std::size_t>(length(slot)));
    cohort.positions.push_back(static_cast<std::int64_t>(step.draws[i].key.position));
    add_row(rows, slot, cohort.positions.back(), step.draws[i]);
    index.push_back(static_cast<std::int32_t>(step.latents[i]));
  }
  cohort.slots.assign(step.slots.begin(), step.slots.end());
  if (!cohort.chunk_index.view() || cohort.chunk_index.numel() < n) {
    if (on_device()) device::synchronize(ctx_.stream);
    cohort.chunk_index = Tensor(ctx_.space, DType::i32, {n}, "rows of a roll-out");
    cohort.chunk_c = Tensor(ctx_.space, dtype_, {n * config_.width(1)}, "chunks' latents");
  }
  copy(ctx_.stream, host_view(index.data(), {n}), front(cohort.chunk_index, {n}));
  const TensorView c = front(cohort.chunk_c, {n, config_.width(1)});
  embedding_forward(ctx_, latents, front(cohort.chunk_index, {n}), c);
  chunk_order_.push_back(number);
  link_.open(static_cast<std::int64_t>(number), rows);
  link_.send(static_cast<std::int64_t>(number), 0, c);
}

StepResult CoarseDecoder::take_chunks() {
  if (chunk_order_.empty()) return {};
  const std::size_t number = chunk_order_.front();
  chunk_order_.pop_front();
  Cohort& cohort = cohorts_[number];
  StepResult result = link_.receive(static_cast<std::int64_t>(number));
  const auto chunk = static_cast<std::size_t>(config_.cumulative_chunk(1));
  for (std::size_t i = 0; i < cohort.slots.size(); ++i) {
    std::vector<std::int32_t>& tokens = tokens_of(cohort.slots[i]);
    for (std::size_t t = 0; t < chunk; ++t) {
      const std::int32_t token = result.tokens[i * chunk + t];
      tokens[static_cast<std::size_t>(cohort.positions[i]) + t] = token == failed_token ? 0 : token;
    }
  }
  cohort.slots.clear();
  return result;
}

}  // namespace photon
