#include <algorithm>
#include <bit>
#include <chrono>
#include <iterator>
#include <utility>

#include "blueprint/activations.hpp"
#include "decode/engine_rows.hpp"
#include "decode/prompt_group.hpp"
#include "model/coarse_decoder.hpp"
#include "model/photon_share.hpp"
#include "support/error.hpp"

namespace photon {

GenerationMode generation_mode(const std::string& name) {
  if (name == "hiergen") return GenerationMode::hiergen;
  if (name == "recgen") return GenerationMode::recgen;
  throw InputError(fmt::format("unknown mode '{}'", name), "", "use hiergen or recgen");
}

namespace {

// All but how caches are made and what they take.
DecoderSource source_of(const ModelConfig& config, const Context& ctx) {
  DecoderSource source;
  source.group_tokens = config.group_tokens();
  source.chunk_tokens = config.num_levels() > 0 ? config.cumulative_chunk(1) : 1;
  if (ctx.space == Space::device) {
    source.max_chunks = device_max_chunks;
    source.prefill_tokens = device_prefill_tokens;
  }
  return source;
}

}  // namespace

DecoderSource decoder_source(Model& model, const Context& ctx) {
  const ModelConfig& config = model.config();
  const bool on_device = ctx.space == Space::device;
  const DType dtype = model.dtype();
  DecoderSource source = source_of(config, ctx);
  source.slot_bytes = [config, dtype, on_device](std::int64_t max_tokens) {
    return slot_cache_bytes(config, max_tokens, dtype) + (on_device ? step_row_bytes(config, dtype) : 0);
  };
  source.prompt_bytes = [config, dtype](std::int64_t max_tokens) {
    return lower_cache_bytes(config, max_tokens, element_bytes(dtype));
  };
  source.make = [&model, ctx](std::int64_t num_slots, std::int64_t max_tokens, const DecoderOptions& options) {
    return make_incremental_decoder(model, ctx, num_slots, max_tokens, options);
  };
  return source;
}

DecoderSource decoder_source(const PhotonShare& share, const Context& ctx, ChunkLink& link) {
  const bool on_device = ctx.space == Space::device;
  DecoderSource source = source_of(share.config(), ctx);
  source.slot_bytes = [&share, on_device](std::int64_t max_tokens) {
    return coarse_cache_bytes(share.config(), max_tokens, element_bytes(share.dtype())) +
           (on_device ? step_row_bytes(share.config(), share.dtype()) : 0);
  };
  source.prompt_bytes = [&share](std::int64_t max_tokens) {
    return lower_cache_bytes(share.config(), max_tokens, element_bytes(share.dtype()));
  };
  source.make = [&share, ctx, &link](std::int64_t num_slots, std::int64_t max_tokens, const DecoderOptions& options) {
    return std::make_unique<CoarseDecoder>(share.config(), share.tensors(), share.dtype(), ctx, num_slots, max_tokens,
                                           options, link);
  };
  return source;
}

std::int64_t DecoderSource::slots_in(std::int64_t memory_bytes, std::int64_t max_tokens, GenerationMode mode,
                                     std::int64_t prompt_rows) const {
  const std::int64_t all = std::max<std::int64_t>(slot_bytes(max_tokens), 1);
  const std::int64_t lower = mode == GenerationMode::recgen && prompt_bytes ? prompt_bytes(max_tokens) : 0;
  if (memory_bytes / all < prompt_rows) return memory_bytes / all;
  return (memory_bytes - prompt_rows * lower) / std::max<std::int64_t>(all - lower, 1);
}

Engine::Engine(DecoderSource source, const Tokenizer* tokenizer, std::int32_t eos, const EngineOptions& options)
    : source_(std::move(source)), tokenizer_(tokenizer), eos_(eos), options_(options) {
  PHOTON_EXPECT(options_.max_batch >= 1 && options_.max_chunks >= 0 && options_.look_ahead >= 0, "bad engine options");
  // One is held, one is copied, one copy is completed.
  PHOTON_EXPECT(options_.prompt_rows >= 3, "{} prompts completed at once", options_.prompt_rows);
  PHOTON_EXPECT(options_.top_logprobs >= 0 && options_.top_logprobs <= most_top_tokens &&
                    (options_.logprobs || options_.top_logprobs == 0),
                "{} likeliest tokens", options_.top_logprobs);
  if (options_.max_chunks == 0) options_.max_chunks = source_.max_chunks;
  if (options_.prefill_tokens == 0) options_.prefill_tokens = source_.prefill_tokens;
}

Engine::~Engine() = default;

void add(const EngineStatistics& statistics, EngineStatistics& sum) {
  sum.rows += statistics.rows;
  sum.errors += statistics.errors;
  sum.prompt_tokens += statistics.prompt_tokens;
  sum.new_tokens += statistics.new_tokens;
  sum.num_active += statistics.num_active;
  sum.num_waiting += statistics.num_waiting;
  sum.num_slots += statistics.num_slots;
  sum.cache_bytes += statistics.cache_bytes;
  sum.prefill_seconds += statistics.prefill_seconds;
  sum.decode_seconds += statistics.decode_seconds;
}

bool Engine::run(const std::function<std::optional<Row>()>& next, ResultSink& sink,
                 const std::function<bool(const EngineStatistics&)>& poll) {
  struct Function : RowSource {
    const std::function<std::optional<Row>()>* next_row = nullptr;
    bool at_end = false;
    std::optional<Row> next() override {
      std::optional<Row> row = (*next_row)();
      at_end = !row;
      return row;
    }
    bool ended() const override { return at_end; }
  } rows;
  rows.next_row = &next;
  return run(rows, sink, poll);
}

bool Engine::run(RowSource& rows, ResultSink& sink, const std::function<bool(const EngineStatistics&)>& poll) {
  sink_ = &sink;
  exhausted_ = false;
  while (true) {
    update_statistics();
    if (!poll(statistics_)) {
      drop_rows();
      return false;
    }
    read_rows(rows);
    admit();
    if (active_.empty()) {
      if (window_.empty() && exhausted_) break;
      continue;
    }
    const Stopwatch watch(stepping_seconds_);
    if (options_.mode == GenerationMode::hiergen) {
      hiergen_round();
    } else {
      recgen_round();
    }
    retire();
  }
  take_all();
  update_statistics();
  return true;
}

void Engine::drop_rows() {
  take_all();
  window_.clear();
  active_.clear();
  held_.reset();
  if (held_slot_ >= 0) decoder_->finish_prompt(held_slot_);
  held_slot_ = -1;
  draining_ = false;
  free_slots_.clear();
  for (std::int64_t slot = statistics_.num_slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

std::int64_t Engine::tokens_needed(const Request& request) const {
  return round_up(request.num_tokens(), source_.group_tokens);
}

// Capacities come in few sizes, so that caches are seldom rebuilt, and at most an eighth of one is spare.
std::int64_t Engine::capacity_class(std::int64_t tokens) const {
  const auto power =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(std::max<std::int64_t>(tokens, 8))));
  const std::int64_t rounded = round_up(round_up(tokens, power / 8), source_.group_tokens);
  return source_.slot_bytes(rounded) <= options_.memory_bytes ? rounded : tokens;
}

std::int64_t Engine::slots_for(std::int64_t max_tokens) const {
  return std::clamp<std::int64_t>(
      source_.slots_in(options_.memory_bytes, max_tokens, options_.mode, options_.prompt_rows), 1, options_.max_batch);
}

std::int64_t Engine::waiting_samples() const {
  std::int64_t samples = 0;
  for (const auto& job : window_) samples += job->request.options.num_samples;
  return samples;
}

std::vector<std::int64_t> Engine::give_back(std::int64_t count) {
  std::vector<std::int64_t> lines;
  for (; count > 0 && !window_.empty(); --count) {
    const Request& last = window_.back()->request;
    const std::int64_t prompts = num_prompts(last);
    // A row with several prompts goes whole.
    const auto waiting = std::count_if(window_.begin(), window_.end(), [&](const auto& job) {
      return last.group != nullptr && job->request.group == last.group;
    });
    if (prompts > 1 && waiting < prompts) break;
    lines.push_back(last.line);
    window_.resize(window_.size() - static_cast<std::size_t>(prompts));
    statistics_.num_waiting = static_cast<std::int64_t>(window_.size());
  }
  return lines;
}

void Engine::read_rows(RowSource& rows) {
  while (!exhausted_ && static_cast<std::int64_t>(window_.size()) < window_rows()) {
    std::optional<Row> row = rows.next();
    if (!row) {
      exhausted_ = rows.ended();
      return;
    }
    if (auto* error = std::get_if<RowError>(&*row)) {
      ++statistics_.errors;
      sink_->error(*error);
    } else {
      std::vector<Request> requests = split_prompts(std::move(std::get<Request>(*row)));
      const Request& request =
          *std::max_element(requests.begin(), requests.end(),
                            [&](const Request& a, const Request& b) { return tokens_needed(a) < tokens_needed(b); });
      const std::int64_t bytes = source_.slot_bytes(tokens_needed(request));
      if (bytes > options_.memory_bytes) {
        ++statistics_.errors;
        sink_->error(
            {RowError::Kind::too_long, request.id, request.line,
             error_message(fmt::format("the row's cache for {} tokens takes {} bytes", request.num_tokens(), bytes),
                           fmt::format("{} bytes are given to caches", options_.memory_bytes),
                           "shorten the prompt, lower max_new_tokens or raise --memory"),
             request.openai});
        continue;
      }
      for (Request& part : requests) {
        auto job = std::make_shared<Job>();
        job->request = std::move(part);
        job->capacity = capacity_class(
            std::max(tokens_needed(job->request), round_up(options_.reserve_tokens, source_.group_tokens)));
        window_.push_back(std::move(job));
      }
    }
  }
}

// New caches for the oldest row that waits, larger where that costs no slots.
void Engine::rebuild() {
  std::int64_t capacity = window_.front()->capacity;
  for (const auto& job : window_) {
    if (job->capacity > capacity && slots_for(job->capacity) >= slots_for(capacity)) capacity = job->capacity;
  }
  std::int64_t slots = slots_for(capacity);
  if (exhausted_) slots = std::min(slots, std::max<std::int64_t>(waiting_samples(), 1));
  take_all();  // of rows that have finished
  if (decoder_) device_prefill_seconds_ += decoder_->prefill_device_seconds();
  decoder_.reset();
  decoder_ = source_.make(slots, capacity,
                          {.logprobs = options_.logprobs,
                           .prompt_rows = options_.mode == GenerationMode::recgen ? options_.prompt_rows : 0,
                           .top_logprobs = options_.top_logprobs,
                           .graphs = options_.graphs});
  PHOTON_EXPECT(decoder_->num_slots() >= slots && decoder_->max_tokens() >= capacity, "caches smaller than asked for");
  free_slots_.clear();
  for (std::int64_t slot = slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  statistics_.num_slots = slots;
  statistics_.cache_bytes = decoder_->cache_bytes();
  draining_ = false;
}

// Whether the rows that wait would fill at least twice the slots, had the caches their size.
bool Engine::worth_draining() const {
  std::int64_t capacity = 0;
  for (const auto& job : window_) capacity = std::max(capacity, job->capacity);
  const std::int64_t twice = 2 * statistics_.num_slots;
  return capacity < decoder_->max_tokens() && slots_for(capacity) >= twice && waiting_samples() >= twice;
}

void Engine::admit() {
  const auto fits = [&](const std::shared_ptr<Job>& job) {
    return decoder_ && tokens_needed(job->request) <= decoder_->max_tokens();
  };
  if (held_) expand_held();
  if (window_.empty()) return;
  if (active_.empty() && !held_ && (draining_ || std::none_of(window_.begin(), window_.end(), fits))) rebuild();
  if (decoder_ && !draining_) draining_ = worth_draining();
  if (draining_ || held_) return;

  std::vector<Prompt> prompts;
  for (auto entry = window_.begin(); entry != window_.end() && !free_slots_.empty() && !held_;) {
    if (!fits(*entry)) {
      ++entry;
      continue;
    }
    const std::shared_ptr<Job> job = *entry;
    entry = window_.erase(entry);
    const auto num_free = static_cast<std::int64_t>(free_slots_.size());
    const std::int64_t slot = take_slot();
    prompts.push_back({slot, &job->request});
    const std::int64_t n = job->request.options.num_samples;
    if (n > num_free && statistics_.num_slots > 1) {
      held_ = job;
      held_slot_ = slot;
    } else {
      start_sample(job, slot);
      for (std::int64_t i = 1; i < std::min(n, num_free); ++i) {
        prompts.back().copies.push_back(take_slot());
        start_sample(job, prompts.back().copies.back());
      }
      if (n > num_free) {
        held_ = job;
        held_slot_ = -1;
      }
    }
  }
  prefill(std::move(prompts));
  if (held_ && held_slot_ >= 0) expand_held();
}

std::int64_t Engine::take_slot() {
  const std::int64_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

// Starts further samples of the held request in the slots that are free.
void Engine::expand_held() {
  const std::int64_t n = held_->request.options.num_samples;
  std::vector<std::int64_t> copied;
  while (held_ && (!free_slots_.empty() || held_slot_ >= 0)) {
    if (static_cast<std::int64_t>(held_->samples.size()) == n - 1 && held_slot_ >= 0) {
      start_sample(held_, held_slot_);  // the last one needs no copy
      copied.push_back(held_slot_);
    } else if (free_slots_.empty()) {
      break;
    } else {
      const std::int64_t slot = take_slot();
      start_sample(held_, slot);
      if (held_slot_ >= 0) {
        if (static_cast<std::int64_t>(copied.size()) + 1 == prompt_room()) complete_prompts(std::exchange(copied, {}));
        decoder_->copy_slot(held_slot_, slot);
        copied.push_back(slot);
      } else {
        prefill({{slot, &held_->request}});
      }
    }
    if (held_->started()) {
      held_.reset();
      held_slot_ = -1;
    }
  }
  complete_prompts(copied);
}

void Engine::start_sample(const std::shared_ptr<Job>& job, std::int64_t slot) {
  job->samples.push_back(
      std::make_unique<Sample>(job->request, static_cast<std::int64_t>(job->samples.size()), tokenizer_, eos_));
  // Into the cohort with the fewest rows.
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(decoder_->num_cohorts()), 0);
  for (const Active& row : active_) ++sizes[static_cast<std::size_t>(row.cohort)];
  active_.push_back({job, job->samples.back().get(), slot,
                     std::distance(sizes.begin(), std::min_element(sizes.begin(), sizes.end()))});
}

// Those of like length together.
void Engine::prefill(std::vector<Prompt> prompts) {
  if (prompts.empty()) return;
  const auto whole = [&](const Prompt& prompt) {
    return static_cast<std::int64_t>(prompt.request->prompt.size()) / source_.group_tokens * source_.group_tokens;
  };
  std::stable_sort(prompts.begin(), prompts.end(),
                   [&](const Prompt& a, const Prompt& b) { return whole(a) > whole(b); });
  const bool copies = std::any_of(prompts.begin(), prompts.end(), [](const Prompt& p) { return !p.copies.empty(); });
  const std::int64_t room = prompt_room();
  for (std::size_t begin = 0; begin < prompts.size();) {
    const std::int64_t longest = std::max<std::int64_t>(whole(prompts[begin]), 1);
    const std::int64_t most = std::min(std::max<std::int64_t>(options_.prefill_tokens / longest, 1),
                                       std::max<std::int64_t>(copies ? room / 2 : room, 1));
    const auto count = std::min(static_cast<std::size_t>(most), prompts.size() - begin);
    const std::span<const Prompt> part = std::span<const Prompt>(prompts).subspan(begin, count);
    encode(part);
    std::vector<std::int64_t> ready;
    auto rows = static_cast<std::int64_t>(count);  // with prompts that are not complete
    for (const Prompt& prompt : part) {
      for (const std::int64_t to : prompt.copies) {
        if (rows == room) {
          rows -= static_cast<std::int64_t>(ready.size());
          complete_prompts(std::exchange(ready, {}));
        }
        decoder_->copy_slot(prompt.slot, to);
        ready.push_back(to);
        ++rows;
      }
      if (prompt.slot != held_slot_) ready.push_back(prompt.slot);
    }
    complete_prompts(ready);
    begin += count;
  }
}

void Engine::encode(std::span<const Prompt> prompts) {
  const Stopwatch watch(host_prefill_seconds_);
  const double device_seconds = decoder_->prefill_device_seconds();
  const auto group = static_cast<std::size_t>(source_.group_tokens);
  std::vector<std::int64_t> slots;
  std::vector<std::span<const std::int32_t>> tokens;
  for (const Prompt& prompt : prompts) {
    const std::span<const std::int32_t> all = prompt.request->prompt;
    decoder_->clear(prompt.slot);
    slots.push_back(prompt.slot);
    tokens.push_back(all.first(all.size() / group * group));
    statistics_.prompt_tokens += static_cast<std::int64_t>(all.size());
  }
  decoder_->prefill(slots, tokens);
  // Where nothing is being decoded the prompts' time is told apart by waiting for them.
  if (decoder_->asynchronous() && queued_.empty()) {
    decoder_->synchronize();
    waited_prefill_seconds_ += decoder_->prefill_device_seconds() - device_seconds;
  }
}

void Engine::retire() {
  for (Active& active : active_) {
    if (!active.sample->finished() || has_calls(active.cohort)) continue;
    free_slots_.push_back(active.slot);
    finished_tokens_ += static_cast<std::int64_t>(active.sample->completion().tokens.size());
    const std::shared_ptr<Job> job = std::move(active.job);
    if (++job->num_done == job->request.options.num_samples) finish(*job);
  }
  std::erase_if(active_, [](const Active& active) { return active.job == nullptr; });
}

void Engine::finish(const Job& job) {
  Result result;
  result.id = job.request.id;
  result.line = job.request.line;
  result.openai = job.request.openai;
  for (const auto& sample : job.samples) {
    if (sample->failed()) {
      if (!fail_row(job.request)) return;
      ++statistics_.errors;
      sink_->error({RowError::Kind::failed, job.request.id, job.request.line, sample->failure(), job.request.openai});
      return;
    }
    result.samples.push_back(sample->completion());
  }
  if (!join_samples(job.request, result.samples)) return;
  ++statistics_.rows;
  sink_->result(result);
}

void Engine::update_statistics() {
  const double device_prefill = device_prefill_seconds_ + (decoder_ ? decoder_->prefill_device_seconds() : 0);
  const bool on_device = decoder_ && decoder_->asynchronous();
  statistics_.prefill_seconds = on_device ? device_prefill : host_prefill_seconds_;
  statistics_.decode_seconds = std::max(stepping_seconds_ - (device_prefill - waited_prefill_seconds_), 0.0);
  statistics_.num_active = static_cast<std::int64_t>(active_.size());
  statistics_.num_waiting = static_cast<std::int64_t>(window_.size());
  statistics_.new_tokens = finished_tokens_;
  for (const Active& active : active_) {
    statistics_.new_tokens += static_cast<std::int64_t>(active.sample->completion().tokens.size());
  }
}

}  // namespace photon
