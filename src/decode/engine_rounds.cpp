// The engine's rounds: which rows take a step, and what becomes of its tokens.
#include <algorithm>
#include <utility>

#include "decode/engine_rows.hpp"

namespace photon {

void Engine::queue_step(const std::vector<Active*>& rows) {
  const std::int64_t group = source_.group_tokens;
  std::vector<std::int64_t> slots;
  std::vector<std::int32_t> forced;
  std::vector<RowDraw> draws;
  Step step;
  step.cohort = rows.front()->cohort;
  for (const Active* row : rows) {
    const std::int64_t position = decoder_->length(row->slot);
    slots.push_back(row->slot);
    draws.push_back(row->sample->draw(position));
    for (std::int64_t i = 0; i < group; ++i) forced.push_back(row->sample->forced(position + i));
    step.jobs.push_back(row->job);
    step.samples.push_back(row->sample);
    step.positions.push_back(position);
  }
  decoder_->step_group({slots, forced, draws});
  queued_.push_back(std::move(step));
}

void Engine::take_step() {
  const Step step = std::move(queued_.front());
  queued_.erase(queued_.begin());
  const StepResult result = decoder_->take_step();
  const auto group = static_cast<std::size_t>(result.num_tokens);
  for (std::size_t i = 0; i < step.samples.size(); ++i) {
    for (std::size_t t = 0; t < group && !step.samples[i]->finished(); ++t) {
      step.samples[i]->take(step.positions[i] + static_cast<std::int64_t>(t), result, i * group + t);
    }
  }
}

// While a device decodes one group the results of the group before are handled: a row that ends in those has one group
// more under way, which nobody reads.
void Engine::hiergen_round() {
  if (decoder_->num_cohorts() > 1) return cohort_round();
  std::vector<Active*> rows;
  for (Active& row : active_) {
    if (decoder_->length(row.slot) < tokens_needed(row.sample->request())) rows.push_back(&row);
  }
  if (!rows.empty()) queue_step(rows);
  const std::size_t ahead = decoder_->asynchronous() && !rows.empty() ? 1 : 0;
  while (queued_.size() > ahead) take_step();
}

std::int64_t Engine::idle_cohort() {
  const std::int64_t num_cohorts = decoder_->num_cohorts();
  for (std::int64_t i = 0; i < num_cohorts; ++i) {
    const std::int64_t cohort = next_cohort_ % num_cohorts;
    next_cohort_ = cohort + 1;
    if (has_calls(cohort)) continue;
    if (std::any_of(queued_.begin(), queued_.end(), [&](const Step& step) { return step.cohort == cohort; })) continue;
    if (std::any_of(active_.begin(), active_.end(), [&](const Active& row) { return row.cohort == cohort; })) {
      return cohort;
    }
  }
  return -1;
}

// Every cohort but one has a step under way while the results of that one are handled.
void Engine::cohort_round() {
  const std::int64_t cohort = idle_cohort();
  if (cohort >= 0) {
    std::vector<Active*> rows;
    for (Active& row : active_) {
      if (row.cohort == cohort) rows.push_back(&row);
    }
    queue_step(rows);
  }
  if (cohort < 0 || static_cast<std::int64_t>(queued_.size()) == decoder_->num_cohorts()) take_step();
}

// While the chunks of every cohort but one are decoded, the coarse stream of that one runs ahead.
void Engine::recgen_round() {
  const std::int64_t cohort = idle_cohort();
  if (cohort >= 0) run_ahead(cohort);
  if (calls_.empty()) return;
  if (cohort >= 0 && static_cast<std::int64_t>(calls_.size()) < decoder_->num_cohorts()) return;
  const std::int64_t oldest = calls_.front().cohort;
  while (has_calls(oldest)) take_chunks();
}

bool Engine::has_calls(std::int64_t cohort) const {
  return std::any_of(calls_.begin(), calls_.end(), [&](const Call& call) { return call.cohort == cohort; });
}

void Engine::take_all() {
  while (!queued_.empty()) take_step();
  while (!calls_.empty()) take_chunks();
}

std::int64_t Engine::prompt_room() const {
  const std::int64_t rows = decoder_->prompt_rows();
  return rows < statistics_.num_slots ? rows - (held_slot_ >= 0 ? 1 : 0) : statistics_.num_slots;
}

void Engine::complete_prompts(std::span<const std::int64_t> slots) {
  if (options_.mode != GenerationMode::recgen || slots.empty()) return;
  const Stopwatch watch(stepping_seconds_);
  std::vector<char> asked(static_cast<std::size_t>(statistics_.num_slots), 0);
  for (const std::int64_t slot : slots) asked[static_cast<std::size_t>(slot)] = 1;
  std::vector<Active*> ragged;
  for (Active& row : active_) {
    if (asked[static_cast<std::size_t>(row.slot)] == 0) continue;
    if (decoder_->length(row.slot) < row.sample->prompt_length()) ragged.push_back(&row);
  }
  if (!ragged.empty()) {
    queue_step(ragged);
    take_step();
  }
  for (const std::int64_t slot : slots) decoder_->finish_prompt(slot);
}

void Engine::run_ahead(std::int64_t cohort) {
  std::vector<Active*> rows;
  for (Active& row : active_) {
    if (row.cohort == cohort && !row.sample->finished()) rows.push_back(&row);
  }
  if (rows.empty()) return;

  const auto n = static_cast<std::int64_t>(rows.size());
  const std::int64_t chunk = source_.chunk_tokens;
  const std::int64_t chunks_per_group = source_.group_tokens / chunk;
  std::vector<std::int64_t> slots;
  std::vector<std::int64_t> begin;  // where each row's next group begins
  std::int64_t longest = 0;         // groups that some row still needs
  std::int64_t room = decoder_->max_tokens() / source_.group_tokens;
  for (const Active* row : rows) {
    slots.push_back(row->slot);
    begin.push_back(decoder_->length(row->slot));
    longest = std::max(longest, (tokens_needed(row->sample->request()) - begin.back()) / source_.group_tokens);
    room = std::min(room, (decoder_->max_tokens() - begin.back()) / source_.group_tokens);
  }
  const std::int64_t wanted = options_.look_ahead > 0
                                  ? options_.look_ahead
                                  : std::max<std::int64_t>(1, options_.max_chunks / (n * chunks_per_group));
  const std::int64_t num_groups = std::min({wanted, longest, room});
  const ConstTensorView latents = decoder_->roll_out(slots, num_groups).merge(0);  // [n * chunks of a row, D_1]

  // A repetition penalty reads the tokens before, so its rows go chunk by chunk; all other chunks go at once.
  std::vector<Chunk> together;
  std::vector<std::vector<Chunk>> in_order;  // a row's chunks
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Sample& sample = *rows[i]->sample;
    const std::int64_t missing = round_up(sample.request().num_tokens() - begin[i], chunk) / chunk;
    const std::int64_t count = std::min(missing, num_groups * chunks_per_group);
    const bool alone = sample.request().options.sampling.repetition_penalty != 1.0;
    if (alone) in_order.emplace_back();
    for (std::int64_t j = 0; j < count; ++j) {
      (alone ? in_order.back() : together)
          .push_back({&sample, slots[i], begin[i] + j * chunk,
                      static_cast<std::int64_t>(i) * num_groups * chunks_per_group + j});
    }
  }
  start_chunks(together, latents, cohort);
  for (std::size_t j = 0; !in_order.empty(); ++j) {
    while (!calls_.empty()) take_chunks();
    std::vector<Chunk> chunks;
    for (const std::vector<Chunk>& row : in_order) {
      if (j < row.size() && !row[j].sample->finished()) chunks.push_back(row[j]);
    }
    if (chunks.empty()) break;
    start_chunks(chunks, latents, cohort);
  }
}

void Engine::start_chunks(std::span<const Chunk> chunks, const ConstTensorView& latents, std::int64_t cohort) {
  for (std::size_t first = 0; first < chunks.size();) {
    const std::size_t count = std::min(static_cast<std::size_t>(options_.max_chunks), chunks.size() - first);
    const std::span<const Chunk> part = chunks.subspan(first, count);
    std::vector<std::int64_t> rows;
    std::vector<std::int64_t> slots;
    std::vector<RowDraw> draws;
    for (const Chunk& chunk : part) {
      rows.push_back(chunk.latent);
      slots.push_back(chunk.slot);
      draws.push_back(chunk.sample->draw(chunk.position));
    }
    if (static_cast<std::int64_t>(calls_.size()) == decoder_->num_cohorts()) take_chunks();
    decoder_->start_chunks(latents, {rows, slots, draws, {}});
    calls_.push_back({{part.begin(), part.end()}, cohort});
    first += count;
  }
}

// Chunks of a row come in order, and so do the tokens it takes.
void Engine::take_chunks() {
  const Call call = std::move(calls_.front());
  calls_.pop_front();
  const StepResult result = decoder_->take_chunks();
  const auto tokens = static_cast<std::size_t>(result.num_tokens);
  for (std::size_t i = 0; i < call.chunks.size(); ++i) {
    const Chunk& chunk = call.chunks[i];
    for (std::size_t t = 0; t < tokens && !chunk.sample->finished(); ++t) {
      chunk.sample->take(chunk.position + static_cast<std::int64_t>(t), result, i * tokens + t);
    }
  }
}

}  // namespace photon
