#include "decode/engine.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include "support/error.hpp"

namespace photon {
namespace {

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

struct Engine::Job {
  Request request;
  std::vector<std::unique_ptr<Sample>> samples;  // started ones
  std::int64_t num_done = 0;
  std::int64_t capacity = 0;  // of the caches that would be made for it

  bool started() const { return static_cast<std::int64_t>(samples.size()) == request.options.num_samples; }
};

struct Engine::Active {
  std::shared_ptr<Job> job;
  Sample* sample;
  std::int64_t slot;
};

GenerationMode generation_mode(const std::string& name) {
  if (name == "hiergen") return GenerationMode::hiergen;
  if (name == "recgen") return GenerationMode::recgen;
  throw InputError(fmt::format("unknown mode '{}'", name), "", "use hiergen or recgen");
}

DecoderSource decoder_source(Model& model, const Context& ctx) {
  const ModelConfig& config = model.config();
  DecoderSource source;
  source.group_tokens = config.group_tokens();
  source.chunk_tokens = config.num_levels() > 0 ? config.cumulative_chunk(1) : 1;
  source.slot_bytes = [config](std::int64_t max_tokens) { return slot_cache_bytes(config, max_tokens); };
  source.make = [&model, ctx](std::int64_t num_slots, std::int64_t max_tokens) {
    return make_incremental_decoder(model, ctx, num_slots, max_tokens);
  };
  return source;
}

Engine::Engine(const Context& ctx, DecoderSource source, const Tokenizer* tokenizer, std::int32_t eos,
               const EngineOptions& options)
    : ctx_(ctx), source_(std::move(source)), tokenizer_(tokenizer), eos_(eos), options_(options) {
  PHOTON_EXPECT(options_.max_batch >= 1 && options_.max_chunks >= 1 && options_.look_ahead >= 0, "bad engine options");
}

Engine::~Engine() = default;

bool Engine::run(const std::function<std::optional<Row>()>& next, ResultSink& sink,
                 const std::function<bool(const EngineStatistics&)>& poll) {
  sink_ = &sink;
  exhausted_ = false;
  while (true) {
    update_statistics();
    if (!poll(statistics_)) return false;
    read_rows(next);
    admit();
    if (active_.empty()) {
      if (window_.empty() && exhausted_) break;
      continue;
    }
    if (options_.mode == GenerationMode::hiergen) {
      std::vector<Active*> rows;
      for (Active& active : active_) rows.push_back(&active);
      hiergen_step(rows);
    } else {
      recgen_round();
    }
    retire();
  }
  update_statistics();
  return true;
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
  const std::int64_t bytes = std::max<std::int64_t>(source_.slot_bytes(max_tokens), 1);
  return std::clamp<std::int64_t>(options_.memory_bytes / bytes, 1, options_.max_batch);
}

std::int64_t Engine::waiting_samples() const {
  std::int64_t samples = 0;
  for (const auto& job : window_) samples += job->request.options.num_samples;
  return samples;
}

void Engine::read_rows(const std::function<std::optional<Row>()>& next) {
  const auto window = static_cast<std::size_t>(std::max<std::int64_t>(64, 2 * options_.max_batch));
  while (!exhausted_ && window_.size() < window) {
    std::optional<Row> row = next();
    if (!row) {
      exhausted_ = true;
    } else if (auto* error = std::get_if<RowError>(&*row)) {
      ++statistics_.errors;
      sink_->error(*error);
    } else {
      Request& request = std::get<Request>(*row);
      const std::int64_t bytes = source_.slot_bytes(tokens_needed(request));
      if (bytes > options_.memory_bytes) {
        ++statistics_.errors;
        sink_->error(
            {RowError::Kind::too_long, request.id, request.line,
             error_message(fmt::format("the row's cache for {} tokens takes {} bytes", request.num_tokens(), bytes),
                           fmt::format("{} bytes are given to caches", options_.memory_bytes),
                           "shorten the prompt, lower max_new_tokens or raise --memory")});
        continue;
      }
      auto job = std::make_shared<Job>();
      job->request = std::move(request);
      job->capacity = capacity_class(tokens_needed(job->request));
      window_.push_back(std::move(job));
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
  decoder_.reset();
  decoder_ = source_.make(slots, capacity);
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

  std::vector<std::pair<std::int64_t, const Request*>> prompts;
  std::vector<std::pair<std::int64_t, std::int64_t>> copies;
  for (auto entry = window_.begin(); entry != window_.end() && !free_slots_.empty() && !held_;) {
    if (!fits(*entry)) {
      ++entry;
      continue;
    }
    const std::shared_ptr<Job> job = *entry;
    entry = window_.erase(entry);
    const auto num_free = static_cast<std::int64_t>(free_slots_.size());
    const std::int64_t slot = free_slots_.back();
    free_slots_.pop_back();
    prompts.emplace_back(slot, &job->request);
    const std::int64_t n = job->request.options.num_samples;
    if (n > num_free && statistics_.num_slots > 1) {
      held_ = job;
      held_slot_ = slot;
    } else {
      start_sample(job, slot);
      for (std::int64_t i = 1; i < std::min(n, num_free); ++i) {
        const std::int64_t to = free_slots_.back();
        free_slots_.pop_back();
        copies.emplace_back(slot, to);
        start_sample(job, to);
      }
      if (n > num_free) {
        held_ = job;
        held_slot_ = -1;
      }
    }
  }
  prefill(prompts);
  for (const auto& [from, to] : copies) decoder_->copy_slot(from, to);
  if (held_ && held_slot_ >= 0) expand_held();
}

// Starts further samples of the held request in the slots that are free.
void Engine::expand_held() {
  const std::int64_t n = held_->request.options.num_samples;
  while (held_ && (!free_slots_.empty() || held_slot_ >= 0)) {
    if (static_cast<std::int64_t>(held_->samples.size()) == n - 1 && held_slot_ >= 0) {
      start_sample(held_, held_slot_);  // the last one needs no copy
    } else if (free_slots_.empty()) {
      return;
    } else {
      const std::int64_t slot = free_slots_.back();
      free_slots_.pop_back();
      if (held_slot_ >= 0) {
        decoder_->copy_slot(held_slot_, slot);
      } else {
        prefill({{slot, &held_->request}});
      }
      start_sample(held_, slot);
    }
    if (held_->started()) {
      held_.reset();
      held_slot_ = -1;
    }
  }
}

void Engine::start_sample(const std::shared_ptr<Job>& job, std::int64_t slot) {
  job->samples.push_back(
      std::make_unique<Sample>(job->request, static_cast<std::int64_t>(job->samples.size()), tokenizer_, eos_));
  active_.push_back({job, job->samples.back().get(), slot});
}

// Encodes the whole groups of the prompts, those of like length together.
void Engine::prefill(const std::vector<std::pair<std::int64_t, const Request*>>& prompts) {
  if (prompts.empty()) return;
  const Stopwatch watch(statistics_.prefill_seconds);
  std::vector<std::pair<std::int64_t, std::span<const std::int32_t>>> parts;
  for (const auto& [slot, request] : prompts) {
    const std::size_t group = static_cast<std::size_t>(source_.group_tokens);
    const std::size_t whole = request->prompt.size() / group * group;
    parts.emplace_back(slot, std::span<const std::int32_t>(request->prompt).first(whole));
    statistics_.prompt_tokens += static_cast<std::int64_t>(request->prompt.size());
  }
  std::stable_sort(parts.begin(), parts.end(),
                   [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  for (std::size_t begin = 0; begin < parts.size();) {
    const std::size_t longest = std::max<std::size_t>(parts[begin].second.size(), 1);
    const std::size_t count =
        std::clamp<std::size_t>(static_cast<std::size_t>(options_.prefill_tokens) / longest, 1, parts.size() - begin);
    std::vector<std::int64_t> slots;
    std::vector<std::span<const std::int32_t>> tokens;
    for (std::size_t i = begin; i < begin + count; ++i) {
      decoder_->clear(parts[i].first);
      slots.push_back(parts[i].first);
      tokens.push_back(parts[i].second);
    }
    decoder_->prefill(slots, tokens);
    begin += count;
  }
}

void Engine::hiergen_step(const std::vector<Active*>& rows) {
  const Stopwatch watch(statistics_.decode_seconds);
  std::vector<std::int64_t> slots;
  std::vector<std::int64_t> lengths;
  std::vector<Sample*> samples;
  for (const Active* row : rows) {
    slots.push_back(row->slot);
    lengths.push_back(decoder_->length(row->slot));
    samples.push_back(row->sample);
  }
  GroupChooser chooser(ctx_, samples, lengths, options_.logprobs);
  decoder_->step_group(slots, chooser);
}

void Engine::recgen_round() {
  // The group in which a prompt ends is completed exactly.
  std::vector<Active*> ragged;
  std::vector<Active*> rows;
  for (Active& row : active_) {
    if (decoder_->length(row.slot) < row.sample->prompt_length()) ragged.push_back(&row);
  }
  if (!ragged.empty()) hiergen_step(ragged);
  for (Active& row : active_) {
    if (!row.sample->finished()) rows.push_back(&row);
  }
  if (rows.empty()) return;

  const Stopwatch watch(statistics_.decode_seconds);
  const auto n = static_cast<std::int64_t>(rows.size());
  const std::int64_t chunks_per_group = source_.group_tokens / source_.chunk_tokens;
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
  const Tensor latents = decoder_->roll_out(slots, num_groups);  // [n, num_groups * chunks_per_group, D_1]
  const ConstTensorView rolled = latents.view();
  const std::int64_t width = rolled.size(2);

  // A repetition penalty reads the tokens before, so its rows go chunk by chunk; all other chunks go at once.
  std::vector<Chunk> together;
  std::vector<std::int64_t> counts(rows.size());
  std::vector<std::size_t> in_order;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Sample& sample = *rows[i]->sample;
    const std::int64_t missing =
        round_up(sample.request().num_tokens() - begin[i], source_.chunk_tokens) / source_.chunk_tokens;
    counts[i] = std::min(missing, num_groups * chunks_per_group);
    if (sample.request().options.sampling.repetition_penalty != 1.0) {
      in_order.push_back(i);
      continue;
    }
    for (std::int64_t j = 0; j < counts[i]; ++j) {
      together.push_back({rows[i]->sample, begin[i] + j * source_.chunk_tokens, false, {}, {}, ""});
    }
  }
  const auto gather = [&](const std::vector<std::size_t>& which, std::int64_t first, std::int64_t count,
                          const TensorView& to) {
    std::int64_t at = 0;
    for (const std::size_t i : which) {
      const std::int64_t part = count < 0 ? counts[i] : count;
      copy(rolled.slice(0, static_cast<std::int64_t>(i), 1).slice(1, first, part).reshape({part, width}),
           to.slice(0, at, part));
      at += part;
    }
  };
  if (!together.empty()) {
    std::vector<std::size_t> which;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (std::find(in_order.begin(), in_order.end(), i) == in_order.end()) which.push_back(i);
    }
    const Tensor conditioning(rolled.space(), rolled.dtype(), {static_cast<std::int64_t>(together.size()), width},
                              "latents of chunks");
    gather(which, 0, -1, conditioning);
    decode_chunks(together, conditioning.view());
    for (const Chunk& chunk : together) {
      for (std::size_t t = 0; t < chunk.tokens.size(); ++t) {
        chunk.sample->accept(chunk.tokens[t], chunk.logprobs[t], options_.logprobs);
      }
      if (!chunk.failure.empty() && !chunk.sample->finished()) chunk.sample->fail(chunk.failure);
    }
  }
  for (std::int64_t j = 0;; ++j) {
    std::vector<std::size_t> which;
    std::vector<Chunk> chunks;
    for (const std::size_t i : in_order) {
      if (j >= counts[i] || rows[i]->sample->finished()) continue;
      which.push_back(i);
      chunks.push_back({rows[i]->sample, begin[i] + j * source_.chunk_tokens, true, {}, {}, ""});
    }
    if (chunks.empty()) break;
    const Tensor conditioning(rolled.space(), rolled.dtype(), {static_cast<std::int64_t>(chunks.size()), width},
                              "latents of chunks");
    gather(which, j, 1, conditioning);
    decode_chunks(chunks, conditioning.view());
  }
}

void Engine::decode_chunks(std::span<Chunk> chunks, const ConstTensorView& conditioning) {
  const auto total = static_cast<std::int64_t>(chunks.size());
  for (std::int64_t first = 0; first < total; first += options_.max_chunks) {
    const std::int64_t count = std::min(options_.max_chunks, total - first);
    ChunkChooser chooser(ctx_, chunks.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                         options_.logprobs);
    decoder_->decode_chunks(conditioning.slice(0, first, count), chooser);
  }
}

void Engine::retire() {
  for (Active& active : active_) {
    if (!active.sample->finished()) continue;
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
  for (const auto& sample : job.samples) {
    if (sample->failed()) {
      ++statistics_.errors;
      sink_->error({RowError::Kind::failed, job.request.id, job.request.line, sample->failure()});
      return;
    }
    result.samples.push_back(sample->completion());
  }
  ++statistics_.rows;
  sink_->result(result);
}

void Engine::update_statistics() {
  statistics_.num_active = static_cast<std::int64_t>(active_.size());
  statistics_.new_tokens = finished_tokens_;
  for (const Active& active : active_) {
    statistics_.new_tokens += static_cast<std::int64_t>(active.sample->completion().tokens.size());
  }
}

}  // namespace photon
