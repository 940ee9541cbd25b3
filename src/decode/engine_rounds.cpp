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
      step.samples[i]->take(step.positions[i] + static_cast<std::int64_t>(t), result.tokens[i * group + t],
                            options_.logprobs ? result.logprobs[i * group + t] : 0.0F, options_.logprobs);
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

// Every cohort but one has a step under way while the results of that one are handled.
void Engine::cohort_round() {
  const std::int64_t num_cohorts = decoder_->num_cohorts();
  bool queued = false;
  for (std::int64_t i = 0; i < num_cohorts && !queued; ++i) {
    const std::int64_t cohort = next_cohort_ % num_cohorts;
    next_cohort_ = cohort + 1;
    if (std::any_of(queued_.begin(), queued_.end(), [&](const Step& step) { return step.cohort == cohort; })) continue;
    std::vector<Active*> rows;
    for (Active& row : active_) {
      if (row.cohort == cohort) rows.push_back(&row);
    }
    if (rows.empty()) continue;
    queue_step(rows);
    queued = true;
  }
  if (!queued || static_cast<std::int64_t>(queued_.size()) == num_cohorts) take_step();
}

void Engine::recgen_round() {
  // The group in which a prompt ends is completed exactly.
  std::vector<Active*> ragged;
  std::vector<Active*> rows;
  for (Active& row : active_) {
    if (decoder_->length(row.slot) < row.sample->prompt_length()) ragged.push_back(&row);
  }
  if (!ragged.empty()) {
    queue_step(ragged);
    take_step();
  }
  for (Active& row : active_) {
    if (!row.sample->finished()) rows.push_back(&row);
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
  decode_chunks(together, latents);
  for (std::size_t j = 0;; ++j) {
    std::vector<Chunk> chunks;
    for (const std::vector<Chunk>& row : in_order) {
      if (j < row.size() && !row[j].sample->finished()) chunks.push_back(row[j]);
    }
    if (chunks.empty()) break;
    decode_chunks(chunks, latents);
  }
}

// At most max_chunks in a call. Chunks of a row come in order, and so do the tokens it takes.
void Engine::decode_chunks(std::span<Chunk> chunks, const ConstTensorView& latents) {
  for (std::size_t first = 0; first < chunks.size();) {
    const std::size_t count = std::min(static_cast<std::size_t>(options_.max_chunks), chunks.size() - first);
    const std::span<Chunk> part = chunks.subspan(first, count);
    std::vector<std::int64_t> rows;
    std::vector<std::int64_t> slots;
    std::vector<RowDraw> draws;
    for (const Chunk& chunk : part) {
      rows.push_back(chunk.latent);
      slots.push_back(chunk.slot);
      draws.push_back(chunk.sample->draw(chunk.position));
    }
    const StepResult result = decoder_->decode_chunks(latents, {rows, slots, draws, {}});
    const auto tokens = static_cast<std::size_t>(result.num_tokens);
    for (std::size_t i = 0; i < part.size(); ++i) {
      for (std::size_t t = 0; t < tokens && !part[i].sample->finished(); ++t) {
        part[i].sample->take(part[i].position + static_cast<std::int64_t>(t), result.tokens[i * tokens + t],
                             options_.logprobs ? result.logprobs[i * tokens + t] : 0.0F, options_.logprobs);
      }
    }
    first += count;
  }
}

}  // namespace photon
