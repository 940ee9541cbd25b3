#include "cli/decode_measure.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <sstream>
#include <vector>

#include "decode/engine.hpp"
#include "partition/decode_cost.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon::cli {
namespace {

class Discard : public ResultSink {
 public:
  void result(const Result&) override {}
  void error(const RowError& error) override { throw Error("a row failed", error.message, ""); }
};

std::vector<Request> random_prompts(std::int64_t count, std::int64_t prompt, std::int64_t new_tokens,
                                    std::int64_t vocabulary) {
  std::vector<Request> requests(static_cast<std::size_t>(count));
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < count; ++row) {
    Request& request = requests[static_cast<std::size_t>(row)];
    request.id = std::to_string(row);
    request.line = row;
    request.options.max_new_tokens = new_tokens;
    for (std::int64_t i = 0; i < prompt; ++i) {
      request.prompt.push_back(
          static_cast<std::int32_t>(random_bits(1, static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(i)) %
                                    static_cast<std::uint64_t>(vocabulary)));
    }
  }
  return requests;
}

void take_memory(const ModelConfig& config, const Place& place, const DecodeRun& how, EngineOptions& options) {
  const bool chunks = options.mode == GenerationMode::recgen && !how.shards;
  const CacheMemory memory = cache_memory(place, config, chunks, static_cast<int>(how.ranks_per_host));
  // On a host of its own a measurement takes all that is free.
  const bool unbounded = place.space() == Space::host && place.memory_limit() == 0;
  options.memory_bytes = memory.bytes * (unbounded ? 2 : 1);
  options.prefill_tokens = memory.prefill_tokens;
  options.max_chunks = memory.max_chunks;
}

constexpr std::int64_t warm_groups = 4;     // the first chooses algorithms, the second is recorded
constexpr std::int64_t steady_tokens = 64;  // of every row, measured

}  // namespace

DecodeCase parse_decode_case(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ':');) parts.push_back(part);
  const auto number = [&](std::size_t i) {
    std::int64_t value = -1;
    const char* const last = parts[i].data() + parts[i].size();
    const auto [end, error] = std::from_chars(parts[i].data(), last, value);
    return error == std::errc() && end == last ? value : -1;
  };
  DecodeCase result;
  if (parts.size() == 4) result = {parts[0], number(1), number(2), number(3)};
  if (parts.size() != 4 || result.batch < 0 || result.prompt < 0 || result.new_tokens < 1) {
    throw InputError(fmt::format("'{}' is no case", text), "a case is MODE:BATCH:PROMPT:NEW_TOKENS",
                     "write for instance hiergen:256:128:256");
  }
  (void)generation_mode(result.mode);
  return result;
}

namespace {

std::int64_t admitted_rows(const ModelConfig& config, const DecoderSource& source, const EngineOptions& options,
                           std::int64_t tokens) {
  return source.slots_in(options.memory_bytes, decode_capacity(config, tokens), options.mode, options.prompt_rows);
}

}  // namespace

DecodeMeasured measure_decode(const ModelConfig& config, const DecoderSource& source, const Place& place,
                              const DecodeCase& asked, const DecodeRun& how) {
  EngineOptions options;
  DecodeCase c = asked;
  options.mode = generation_mode(c.mode);
  if (options.mode == GenerationMode::recgen) require_recgen(config);
  take_memory(config, place, how, options);
  if (c.batch == 0) c.batch = admitted_rows(config, source, options, c.prompt + c.new_tokens);
  if (c.batch == 0) {
    throw Error(fmt::format("not one sequence of {} tokens fits", c.prompt + c.new_tokens),
                fmt::format("it takes {} bytes, of {} for caches", source.slot_bytes(c.prompt + c.new_tokens),
                            options.memory_bytes),
                "take shorter ones, or more memory");
  }
  options.max_batch = c.batch;
  options.look_ahead = how.look_ahead;
  options.graphs = how.graphs;
  Engine engine(source, nullptr, -1, options);
  Discard discard;
  const std::vector<Request> requests = random_prompts(c.batch, c.prompt, c.new_tokens, config.vocab_size);
  const auto run = [&](std::int64_t rounds) {
    std::size_t at = 0;
    engine.run([&]() { return at < requests.size() ? std::optional<Row>(requests[at++]) : std::nullopt; }, discard,
               [rounds](const EngineStatistics&) mutable { return rounds-- != 0; });
    return engine.statistics();
  };
  // Touches all memory, starts the threads, chooses algorithms. What a device has run once is recorded the second time.
  EngineStatistics before = run(place.space() == Space::host ? 2 : 5);
  if (place.space() == Space::device) before = run(5);
  if (before.num_slots < c.batch) {
    throw Error(fmt::format("the caches of {} sequences do not fit", c.batch),
                fmt::format("the memory that is free holds {}", before.num_slots), "choose a smaller --batch");
  }
  if (how.before_timing) how.before_timing();
  const auto start = std::chrono::steady_clock::now();
  const EngineStatistics after = run(-1);
  return {c.batch,
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
          after.decode_seconds - before.decode_seconds,
          after.prefill_seconds - before.prefill_seconds,
          after.cache_bytes,
          place.used_bytes()};
}

SteadyDecoding::SteadyDecoding(const ModelConfig& config, const DecoderSource& source, const Place& place,
                               const std::string& mode, std::int64_t prompt, std::int64_t new_tokens)
    : vocabulary_(config.vocab_size), group_(source.group_tokens), tokens_(prompt + new_tokens) {
  const auto whole_groups = [&](std::int64_t tokens) { return std::max<std::int64_t>(tokens, 0) / group_ * group_; };
  span_ = std::max(group_, whole_groups(std::min(steady_tokens, new_tokens / 2)));
  start_ = whole_groups(prompt + (new_tokens - span_) / 2 - warm_groups * group_);
  EngineOptions options;
  options.mode = generation_mode(mode);
  if (options.mode == GenerationMode::recgen) require_recgen(config);
  take_memory(config, place, {}, options);
  options.reserve_tokens = tokens_;
  most_rows_ = admitted_rows(config, source, options, tokens_);
  options.max_batch = std::max<std::int64_t>(most_rows_, 1);
  // Calls of chunks as full as ever, but several within what is measured.
  const std::int64_t chunks = options.max_batch * (group_ / source.chunk_tokens);
  options.look_ahead = std::clamp<std::int64_t>(
      (options.max_chunks > 0 ? options.max_chunks : source.max_chunks) / chunks, 1, warm_groups);
  engine_ = std::make_unique<Engine>(source, nullptr, -1, options);
}

SteadyDecoding::Rate SteadyDecoding::measure(std::int64_t rows) {
  using Clock = std::chrono::steady_clock;
  const std::int64_t count = std::min(rows, distinct_prompts);
  std::vector<Request> requests = random_prompts(count, start_, tokens_ - start_, vocabulary_);
  for (std::int64_t i = 0; i < count; ++i)
    requests[static_cast<std::size_t>(i)].options.num_samples = rows / count + (i < rows % count ? 1 : 0);
  std::size_t at = 0;
  Rate rate;
  rate.rows = rows;
  std::int64_t before = -1;  // tokens when the measured part began
  std::int64_t taken = 0;
  Clock::time_point begin;
  Discard discard;
  std::int64_t earlier = -1;  // of finished rows of runs before
  engine_->run([&]() { return at < requests.size() ? std::optional<Row>(requests[at++]) : std::nullopt; }, discard,
               [&](const EngineStatistics& now) {
                 if (earlier < 0) earlier = now.new_tokens;
                 taken = now.new_tokens - earlier;
                 if (before < 0 && taken >= rows * warm_groups * group_) {
                   if (now.num_active < rows) {
                     throw Error(fmt::format("the caches of {} sequences do not fit", rows),
                                 fmt::format("the memory that is free holds {}", now.num_slots), "choose fewer");
                   }
                   before = taken;
                   begin = Clock::now();
                 }
                 const bool done = before >= 0 && taken >= before + rows * span_;
                 if (done) rate.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
                 return !done;
               });
  PHOTON_EXPECT(rate.seconds > 0, "answers of {} tokens end before they were measured", tokens_ - start_);
  rate.from = start_ + before / rows;
  rate.tokens_a_row = static_cast<double>(taken - before) / static_cast<double>(rows);
  rate.tokens_per_second = static_cast<double>(taken - before) / rate.seconds;
  return rate;
}

}  // namespace photon::cli
