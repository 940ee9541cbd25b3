#include "decode/engine.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "fake_decoder.hpp"

namespace photon {
namespace {

using testing::fake_source;
using testing::fake_vocab;
using testing::FakeLog;
using testing::FakeShape;

struct Collected : ResultSink {
  std::map<std::string, std::vector<Completion>> results;
  std::vector<RowError> errors;
  std::vector<std::string> order;

  void result(const Result& result) override {
    EXPECT_TRUE(results.emplace(result.id, result.samples).second) << result.id << " twice";
    order.push_back(result.id);
  }
  void error(const RowError& error) override { errors.push_back(error); }
};

const Tokenizer& bytes() {
  static const auto tokenizer = make_byte_tokenizer();
  return *tokenizer;
}

Request request(const std::string& id, std::string_view prompt, const GenerationOptions& options) {
  Request made;
  made.id = "\"" + id + "\"";
  made.key = hash_name(id);
  made.prompt = bytes().encode(prompt);
  made.options = options;
  return made;
}

GenerationOptions options_of(std::int64_t max_new_tokens, double temperature = 0, std::int64_t n = 1) {
  GenerationOptions options;
  options.sampling.temperature = temperature;
  options.max_new_tokens = max_new_tokens;
  options.num_samples = n;
  options.seed = 5;
  return options;
}

// Prompts of all lengths around the groups, with sampling of every kind.
std::vector<Request> varied_requests(bool stops = true) {
  std::vector<Request> requests;
  const std::string text = "the quick brown fox jumps over the lazy dog";
  for (int i = 0; i < 23; ++i) {
    GenerationOptions options = options_of(1 + (i * 7) % 19, i % 3 == 0 ? 0 : 0.4 * (i % 4), 1 + (i % 5 == 4 ? 3 : 0));
    if (i % 4 == 1) options.sampling.top_k = 5;
    if (i % 6 == 2) options.sampling.top_p = 0.8;
    if (i % 7 == 3) options.sampling.repetition_penalty = 1.7;
    if (stops && i % 8 == 5) options.stop = {"ab", "c"};
    requests.push_back(request(fmt::format("r{}", i),
                               std::string_view(text).substr(0, static_cast<std::size_t>((i * 5) % 14)), options));
  }
  return requests;
}

struct Outcome {
  Collected collected;
  FakeLog log;
  EngineStatistics statistics;
};

Outcome decode(const std::vector<Request>& requests, const EngineOptions& options, const FakeShape& shape = {},
               std::int32_t eos = 257) {
  Outcome outcome;
  Engine engine(fake_source(outcome.log, shape), &bytes(), eos, options);
  std::size_t at = 0;
  const auto next = [&]() -> std::optional<Row> {
    if (at == requests.size()) return std::nullopt;
    return requests[at++];
  };
  EXPECT_TRUE(engine.run(next, outcome.collected, [](const EngineStatistics&) { return true; }));
  outcome.statistics = engine.statistics();
  return outcome;
}

// A sample decoded alone, token by token, from the definition. RecGen's prefix: prompt and what completes its last
// group.
Completion by_definition(const Request& request, std::int64_t index, GenerationMode mode, const FakeShape& shape,
                         std::int32_t eos = 257) {
  Completion expected;
  std::vector<std::int32_t> sequence = request.prompt;
  const auto prompt = static_cast<std::int64_t>(sequence.size());
  const std::int64_t aligned = (prompt + shape.group - 1) / shape.group * shape.group;
  std::vector<float> logits(static_cast<std::size_t>(fake_vocab));
  while (expected.finish == FinishReason::none) {
    const auto position = static_cast<std::int64_t>(sequence.size());
    if (mode == GenerationMode::hiergen || position < aligned) {
      testing::fake_logits(testing::hash_tokens(sequence), logits.data());
    } else {
      const std::int64_t chunk = position / shape.chunk * shape.chunk;
      const std::span<const std::int32_t> all(sequence);
      const auto latent =
          testing::fake_latent(testing::hash_tokens(all.first(static_cast<std::size_t>(aligned))), chunk);
      testing::fake_logits(testing::hash_chunk(latent.data(), all.subspan(static_cast<std::size_t>(chunk))),
                           logits.data());
    }
    SampleRow row;
    row.options = request.options.sampling;
    row.key = {request.options.seed, request.key, static_cast<std::uint64_t>(index),
               static_cast<std::uint64_t>(position)};
    row.seen = sequence;
    std::int32_t token = -1;
    sample(Context{}, host_view(logits.data(), {1, fake_vocab}), {&row, 1}, host_view(&token, {1}), {});
    if (token == eos) {
      expected.finish = FinishReason::eos;
      break;
    }
    sequence.push_back(token);
    expected.tokens.push_back(token);
    expected.text = bytes().decode(expected.tokens);
    for (const std::string& stop : request.options.stop) {
      const std::size_t found = expected.text.find(stop);
      if (found == std::string::npos) continue;
      expected.finish = FinishReason::stop;
      expected.text.resize(std::min(expected.text.size(), found));
    }
    if (expected.finish == FinishReason::none &&
        static_cast<std::int64_t>(expected.tokens.size()) == request.options.max_new_tokens) {
      expected.finish = FinishReason::length;
    }
  }
  return expected;
}

void expect_as_defined(const std::vector<Request>& requests, const Outcome& outcome, GenerationMode mode,
                       const FakeShape& shape, std::map<std::string, Completion>& known) {
  ASSERT_EQ(outcome.collected.results.size(), requests.size());
  EXPECT_TRUE(outcome.collected.errors.empty());
  for (const Request& r : requests) {
    const auto& samples = outcome.collected.results.at(r.id);
    ASSERT_EQ(static_cast<std::int64_t>(samples.size()), r.options.num_samples) << r.id;
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const std::string name =
          fmt::format("{} {} {} {} {}", r.id, i, mode == GenerationMode::recgen, shape.group, shape.chunk);
      if (!known.contains(name)) known[name] = by_definition(r, static_cast<std::int64_t>(i), mode, shape);
      const Completion& expected = known[name];
      EXPECT_EQ(samples[i].tokens, expected.tokens) << r.id << " sample " << i;
      EXPECT_EQ(samples[i].text, expected.text) << r.id << " sample " << i;
      EXPECT_EQ(samples[i].finish, expected.finish) << r.id << " sample " << i;
    }
  }
}

TEST(EngineTest, HierGenIsWhatTheDefinitionSaysForAnyBatchAndOrder) {
  std::map<std::string, Completion> known;
  for (const FakeShape shape :
       {FakeShape{4, 2}, FakeShape{1, 1}, FakeShape{6, 3}, FakeShape{4, 2, true}, FakeShape{1, 1, true}}) {
    std::vector<Request> requests = varied_requests();
    for (const std::int64_t batch : {1, 3, 64}) {
      EngineOptions options;
      options.max_batch = batch;
      options.prefill_tokens = batch == 3 ? 1 : 64;
      const Outcome outcome = decode(requests, options, shape);
      expect_as_defined(requests, outcome, GenerationMode::hiergen, shape, known);
      EXPECT_LE(outcome.log.max_rows, batch);
      std::reverse(requests.begin(), requests.end());
    }
  }
}

TEST(EngineTest, RecGenIsWhatTheDefinitionSaysForAnyBatchAndLookAhead) {
  std::map<std::string, Completion> known;
  const std::vector<Request> requests = varied_requests();
  for (const FakeShape shape : {FakeShape{4, 2}, FakeShape{6, 3}}) {
    for (const std::int64_t batch : {1, 5, 64}) {
      for (const std::int64_t look_ahead : {0, 1, 100}) {
        EngineOptions options;
        options.mode = GenerationMode::recgen;
        options.max_batch = batch;
        options.look_ahead = look_ahead;
        options.max_chunks = batch == 5 ? 3 : 1024;
        const Outcome outcome = decode(requests, options, shape);
        expect_as_defined(requests, outcome, GenerationMode::recgen, shape, known);
        EXPECT_LE(outcome.log.max_chunks, options.max_chunks);
      }
    }
  }
}

TEST(EngineTest, RecGenDecodesAllChunksOfAnAnswerAtOnce) {
  EngineOptions options;
  options.mode = GenerationMode::recgen;
  const Outcome outcome = decode({request("a", "12345678", options_of(400))}, options, {}, -1);
  EXPECT_EQ(outcome.collected.results.at("\"a\"")[0].tokens.size(), 400U);
  EXPECT_EQ(outcome.log.num_steps, 1);
  EXPECT_EQ(outcome.log.max_chunks, 200);
}

TEST(EngineTest, SamplesShareThePromptsEncoding) {
  std::map<std::string, Completion> known;
  const std::string prompt(40, 'x');
  for (const std::int64_t batch : {2, 3, 8}) {
    EngineOptions options;
    options.max_batch = batch;
    const std::vector<Request> requests{request("a", prompt, options_of(9, 1.0, 7)),
                                        request("b", prompt, options_of(5, 1.0, 2))};
    const Outcome outcome = decode(requests, options);
    expect_as_defined(requests, outcome, GenerationMode::hiergen, {}, known);
    EXPECT_EQ(outcome.log.num_prefilled, 2) << batch;
    const auto& samples = outcome.collected.results.at("\"a\"");
    EXPECT_NE(samples[0].tokens, samples[1].tokens);
  }
}

TEST(EngineTest, ForcedTokensNeedNoHead) {
  EngineOptions options;
  const Outcome outcome = decode({request("a", "abc", options_of(1))}, options);
  EXPECT_EQ(outcome.log.num_skipped_heads, 3);
}

TEST(EngineTest, SlotsAreRefilledWhileOthersGoOn) {
  std::vector<Request> requests{request("long", "", options_of(200))};
  for (int i = 0; i < 30; ++i) requests.push_back(request(fmt::format("s{}", i), "", options_of(4)));
  EngineOptions options;
  options.max_batch = 2;
  const Outcome outcome = decode(requests, options, {}, -1);
  // 50 groups of the long row, and the short ones beside it.
  EXPECT_EQ(outcome.log.num_steps, 50);
  EXPECT_EQ(outcome.log.num_row_steps, 80);
  EXPECT_EQ(outcome.collected.order.back(), "\"long\"");
}

TEST(EngineTest, MemoryBoundsTheBatchAndTooLongRowsAreErrors) {
  std::vector<Request> requests;
  for (int i = 0; i < 40; ++i) requests.push_back(request(fmt::format("s{}", i), "", options_of(8)));
  requests.push_back(request("big", "", options_of(96)));
  requests.push_back(request("too big", "", options_of(101)));
  for (int i = 40; i < 400; ++i) requests.push_back(request(fmt::format("s{}", i), "", options_of(8)));
  EngineOptions options;
  options.memory_bytes = 100;
  options.max_batch = 1000;
  const Outcome outcome = decode(requests, options, {}, -1);
  EXPECT_EQ(outcome.collected.results.size(), 401U);
  ASSERT_EQ(outcome.collected.errors.size(), 1U);
  EXPECT_EQ(outcome.collected.errors[0].id, "\"too big\"");
  EXPECT_EQ(outcome.collected.errors[0].kind, RowError::Kind::too_long);
  EXPECT_NE(outcome.collected.errors[0].message.find("101 tokens"), std::string::npos);
  EXPECT_EQ(outcome.log.max_rows, 12);  // 100 bytes / 8 tokens
  // The caches grow once for the long row, at most, and shrink again after it.
  EXPECT_LE(outcome.log.num_made, 3);
  EXPECT_EQ(outcome.statistics.rows, 401);
  EXPECT_EQ(outcome.statistics.errors, 1);
  EXPECT_EQ(outcome.statistics.new_tokens, 400 * 8 + 96);
}

TEST(EngineTest, StopsWhenAskedTo) {
  const std::vector<Request> requests = varied_requests();
  FakeLog log;
  Engine engine(fake_source(log), &bytes(), 257, EngineOptions{});
  Collected collected;
  std::size_t at = 0;
  int polls = 0;
  const auto next = [&]() -> std::optional<Row> {
    return at < requests.size() ? std::optional<Row>(requests[at++]) : std::nullopt;
  };
  EXPECT_FALSE(engine.run(next, collected, [&](const EngineStatistics&) { return ++polls < 3; }));
  EXPECT_EQ(log.num_steps, 2);
  EXPECT_LT(collected.results.size(), requests.size());
}

TEST(EngineTest, SourcesMayHaveNothingForNow) {
  const std::vector<Request> requests = varied_requests();
  const Outcome expected = decode(requests, EngineOptions{});
  // A row, nothing, nothing, a row, ...; the end is told last.
  struct Slow : RowSource {
    const std::vector<Request>* requests = nullptr;
    std::size_t at = 0;
    int calls = 0;
    int polls_after_last = 0;
    std::optional<Row> next() override {
      if (at == requests->size() || ++calls % 3 != 0) return std::nullopt;
      return (*requests)[at++];
    }
    bool ended() const override { return polls_after_last > 50; }
  } rows;
  rows.requests = &requests;
  FakeLog log;
  Engine engine(fake_source(log), &bytes(), 257, EngineOptions{});
  Collected collected;
  EXPECT_TRUE(engine.run(rows, collected, [&](const EngineStatistics&) {
    if (rows.at == requests.size()) ++rows.polls_after_last;
    return true;
  }));
  ASSERT_EQ(collected.results.size(), requests.size());
  for (const auto& [id, samples] : expected.collected.results) {
    ASSERT_EQ(collected.results.at(id).size(), samples.size());
    for (std::size_t i = 0; i < samples.size(); ++i) {
      EXPECT_EQ(collected.results.at(id)[i].tokens, samples[i].tokens) << id;
    }
  }
}

TEST(EngineTest, GivesRowsBackThatItHasNotStarted) {
  std::vector<Request> requests = varied_requests();
  for (std::size_t i = 0; i < requests.size(); ++i) requests[i].line = static_cast<std::int64_t>(i);
  FakeLog log;
  EngineOptions options;
  options.max_batch = 3;
  Engine engine(fake_source(log), &bytes(), 257, options);
  Collected collected;
  std::size_t at = 0;
  std::vector<std::int64_t> returned;
  const auto next = [&]() -> std::optional<Row> {
    return at < requests.size() ? std::optional<Row>(requests[at++]) : std::nullopt;
  };
  EXPECT_TRUE(engine.run(next, collected, [&](const EngineStatistics& statistics) {
    if (at == requests.size() && returned.empty()) {
      EXPECT_GT(statistics.num_waiting, 4);
      const std::int64_t before = statistics.num_waiting;
      returned = engine.give_back(4);
      EXPECT_EQ(engine.give_back(1000).size(), static_cast<std::size_t>(before - 4));
    }
    return true;
  }));
  const auto last = static_cast<std::int64_t>(requests.size()) - 1;
  EXPECT_EQ(returned, (std::vector<std::int64_t>{last, last - 1, last - 2, last - 3}));
  EXPECT_GT(collected.results.size(), 0U);
  EXPECT_LT(collected.results.size(), requests.size() - 4);
  EXPECT_EQ(static_cast<std::int64_t>(collected.results.size()), engine.statistics().rows);
}

TEST(EngineTest, LogprobsBelongToTheTokens) {
  EngineOptions options;
  options.logprobs = true;
  const Outcome outcome = decode({request("a", "abcde", options_of(6))}, options, {}, -1);
  const Completion& completion = outcome.collected.results.at("\"a\"")[0];
  ASSERT_EQ(completion.logprobs.size(), 6U);
  std::vector<std::int32_t> sequence = bytes().encode("abcde");
  for (std::size_t i = 0; i < 6; ++i) {
    std::vector<float> logits(static_cast<std::size_t>(fake_vocab));
    testing::fake_logits(testing::hash_tokens(sequence), logits.data());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    const double expected = static_cast<double>(logits[static_cast<std::size_t>(completion.tokens[i])]) - std::log(sum);
    EXPECT_NEAR(static_cast<double>(completion.logprobs[i]), expected, 1e-5);
    sequence.push_back(completion.tokens[i]);
  }
}

TEST(EngineTest, RowsWithoutFiniteLogitsFailAlone) {
  // Logits of sequences that hold 'z' are NaN.
  class Broken : public testing::FakeDecoder {
   public:
    using FakeDecoder::FakeDecoder;
    void prefill(std::span<const std::int64_t> slots, std::span<const std::span<const std::int32_t>> prompts) override {
      FakeDecoder::prefill(slots, prompts);
      for (std::size_t i = 0; i < slots.size(); ++i) {
        if (std::count(prompts[i].begin(), prompts[i].end(), 'z') > 0) broken_.insert(slots[i]);
      }
    }

   protected:
    void group_logits(std::int64_t slot, std::span<const std::int32_t> tokens, float* logits) override {
      FakeDecoder::group_logits(slot, tokens, logits);
      if (broken_.contains(slot)) std::fill(logits, logits + fake_vocab, std::nanf(""));
    }

   private:
    std::set<std::int64_t> broken_;
  };
  FakeLog log;
  DecoderSource source = fake_source(log);
  source.make = [&](std::int64_t slots, std::int64_t tokens, const DecoderOptions& decoder_options) {
    return std::make_unique<Broken>(FakeShape{}, slots, tokens, decoder_options, log);
  };
  Engine engine(source, &bytes(), -1, EngineOptions{});
  const std::vector<Request> requests{request("a", "abcd", options_of(5)), request("b", "abcz", options_of(5)),
                                      request("c", "abcde", options_of(5))};
  std::size_t at = 0;
  Collected collected;
  engine.run([&]() { return at < 3 ? std::optional<Row>(requests[at++]) : std::nullopt; }, collected,
             [](const EngineStatistics&) { return true; });
  EXPECT_EQ(collected.results.size(), 2U);
  ASSERT_EQ(collected.errors.size(), 1U);
  EXPECT_EQ(collected.errors[0].id, "\"b\"");
  EXPECT_EQ(collected.errors[0].kind, RowError::Kind::failed);
  EXPECT_NE(collected.errors[0].message, "");
}

void take(Sample& sample, std::int32_t token) {
  StepResult result;
  result.num_tokens = 1;
  result.tokens = {token};
  sample.take(sample.length(), result, 0);
}

TEST(EngineTest, TokensBeyondTheTokenizerHaveNoText) {
  const Request row = request("a", "", options_of(3));
  Sample sample(row, 0, &bytes(), 257);
  take(sample, 'x');
  take(sample, 300);
  EXPECT_FALSE(sample.finished());
  take(sample, 'y');
  EXPECT_EQ(sample.completion().text, "xy");
  EXPECT_EQ(sample.completion().tokens, (std::vector<std::int32_t>{'x', 300, 'y'}));
  EXPECT_EQ(sample.completion().finish, FinishReason::length);
}

TEST(EngineTest, StopStringsAreFoundAcrossTokensAndOnlyOnce) {
  GenerationOptions options = options_of(20);
  options.stop = {"\xc3\xa9!", "ba"};
  const Request row = request("a", "prompt ends in b", options);
  Sample sample(row, 0, &bytes(), 257);
  for (const char c : std::string("a\xc3\xa9?\xc3\xa9!more")) take(sample, static_cast<unsigned char>(c));
  // The stop string "ba" that the prompt's last letter would begin does not count.
  EXPECT_EQ(sample.completion().text, "a\xc3\xa9?");
  EXPECT_EQ(sample.completion().tokens.size(), 7U);
  EXPECT_EQ(sample.completion().finish, FinishReason::stop);
}

TEST(EngineTest, ModesHaveNames) {
  EXPECT_EQ(generation_mode("hiergen"), GenerationMode::hiergen);
  EXPECT_EQ(generation_mode("recgen"), GenerationMode::recgen);
  EXPECT_THROW(generation_mode("fast"), InputError);
}

}  // namespace
}  // namespace photon
