#include "cli/decode_measure.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <sstream>
#include <vector>

#include "decode/engine.hpp"
#include "decode/generate.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace photon::cli {
namespace {

class Discard : public ResultSink {
 public:
  void result(const Result&) override {}
  void error(const RowError& error) override { throw Error("a row failed", error.message, ""); }
};

std::vector<Request> random_prompts(const DecodeCase& c, std::int64_t vocabulary) {
  std::vector<Request> requests(static_cast<std::size_t>(c.batch));
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < c.batch; ++row) {
    Request& request = requests[static_cast<std::size_t>(row)];
    request.id = std::to_string(row);
    request.line = row;
    request.options.max_new_tokens = c.new_tokens;
    for (std::int64_t i = 0; i < c.prompt; ++i) {
      request.prompt.push_back(
          static_cast<std::int32_t>(random_bits(1, static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(i)) %
                                    static_cast<std::uint64_t>(vocabulary)));
    }
  }
  return requests;
}

std::int64_t memory_for(const ModelConfig& config, const Place& place, const DecodeCase& c,
                        std::int64_t ranks_per_host) {
  if (place.space() == Space::host) return 2 * default_cache_memory() / ranks_per_host;
  return cache_memory(place, config, generation_mode(c.mode) == GenerationMode::recgen);
}

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
  if (parts.size() == 4) result = {parts[0], number(1), number(2), number(3), 0};
  if (parts.size() != 4 || result.batch < 1 || result.prompt < 0 || result.new_tokens < 1) {
    throw InputError(fmt::format("'{}' is no case", text), "a case is MODE:BATCH:PROMPT:NEW_TOKENS",
                     "write for instance hiergen:256:128:256");
  }
  (void)generation_mode(result.mode);
  return result;
}

std::int64_t most_decode_rows(const ModelConfig& config, const DecoderSource& source, const Place& place,
                              const DecodeCase& c) {
  const std::int64_t tokens = std::max(c.reserve_tokens, c.prompt + c.new_tokens);
  const std::int64_t rounded = (tokens + tokens / 8 + source.group_tokens) / source.group_tokens * source.group_tokens;
  return memory_for(config, place, c, 1) / source.slot_bytes(rounded);
}

DecodeMeasured measure_decode(const ModelConfig& config, const DecoderSource& source, const Place& place,
                              const DecodeCase& c, const DecodeRun& how) {
  EngineOptions options;
  options.mode = generation_mode(c.mode);
  if (options.mode == GenerationMode::recgen) require_recgen(config);
  options.max_batch = c.batch;
  options.memory_bytes = memory_for(config, place, c, how.ranks_per_host);
  options.look_ahead = how.look_ahead;
  options.graphs = how.graphs;
  options.reserve_tokens = c.reserve_tokens;
  Engine engine(source, nullptr, -1, options);
  Discard discard;
  const std::vector<Request> requests = random_prompts(c, config.vocab_size);
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
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
          after.decode_seconds - before.decode_seconds, after.prefill_seconds - before.prefill_seconds,
          after.cache_bytes};
}

}  // namespace photon::cli
