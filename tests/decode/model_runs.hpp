// Decoding with the engine on small models: what the tests of the host and of the device share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "../model/shapes.hpp"
#include "decode/engine.hpp"

namespace photon::testing {

struct Results : ResultSink {
  std::map<std::string, std::vector<Completion>> rows;
  void result(const Result& result) override { rows[result.id] = result.samples; }
  void error(const RowError& error) override { ADD_FAILURE() << error.id << ": " << error.message; }
};

inline Context deterministic() {
  Context ctx;
  ctx.numerics = Numerics::deterministic;
  return ctx;
}

inline std::vector<Request> requests(const ModelConfig& config, double temperature, double penalty = 1.0) {
  std::vector<Request> made;
  for (int i = 0; i < 9; ++i) {
    Request request;
    request.id = std::to_string(i);
    request.key = hash_name(request.id);
    const TokenBatch prompt(1, (i * 5) % 22, config.vocab_size, static_cast<std::uint64_t>(i));
    request.prompt = prompt.ids;
    request.options.max_new_tokens = 1 + (i * 11) % 27;
    request.options.sampling.temperature = temperature;
    request.options.sampling.repetition_penalty = i % 3 == 0 ? penalty : 1.0;
    made.push_back(request);
  }
  return made;
}

inline std::map<std::string, std::vector<Completion>> decode_with(DecoderSource source,
                                                                  const std::vector<Request>& rows,
                                                                  const EngineOptions& options, std::int32_t eos) {
  Engine engine(std::move(source), nullptr, eos, options);
  Results results;
  std::size_t at = 0;
  engine.run([&]() { return at < rows.size() ? std::optional<Row>(rows[at++]) : std::nullopt; }, results,
             [](const EngineStatistics&) { return true; });
  EXPECT_EQ(results.rows.size(), rows.size());
  return results.rows;
}

inline std::map<std::string, std::vector<Completion>> decode(Model& model, const std::vector<Request>& rows,
                                                             const EngineOptions& options, std::int32_t eos = -1,
                                                             const Context& ctx = deterministic()) {
  return decode_with(decoder_source(model, ctx), rows, options, eos);
}

// Of rows that were decoded with `count` likeliest tokens: as many at each place, in order, the chosen one's
// log-probability to the bit where it is among them, and together no more than all there is.
inline void expect_top(const std::map<std::string, std::vector<Completion>>& results, std::size_t count, bool greedy) {
  for (const auto& [id, samples] : results) {
    for (const Completion& one : samples) {
      ASSERT_EQ(one.top.size(), one.tokens.size()) << id;
      for (std::size_t t = 0; t < one.top.size(); ++t) {
        const std::vector<TopToken>& top = one.top[t];
        ASSERT_EQ(top.size(), count) << id;
        double sum = 0;
        bool found = false;
        for (std::size_t i = 0; i < top.size(); ++i) {
          sum += std::exp(static_cast<double>(top[i].logprob));
          if (i > 0) {
            EXPECT_GE(top[i - 1].logprob, top[i].logprob) << id;
          }
          if (top[i].token != one.tokens[t]) continue;
          found = true;
          EXPECT_EQ(top[i].logprob, one.logprobs[t]) << id;
        }
        EXPECT_LE(sum, 1 + 1e-5) << id;
        if (greedy) {
          EXPECT_EQ(top[0].token, one.tokens[t]) << id;
        }
        if (!found) {
          EXPECT_LE(one.logprobs[t], top.back().logprob) << id;
        }
      }
    }
  }
}

inline void expect_same(const std::map<std::string, std::vector<Completion>>& a,
                        const std::map<std::string, std::vector<Completion>>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [id, samples] : a) {
    const auto& others = b.at(id);
    ASSERT_EQ(samples.size(), others.size());
    for (std::size_t i = 0; i < samples.size(); ++i) {
      EXPECT_EQ(samples[i].tokens, others[i].tokens) << id;
      EXPECT_EQ(samples[i].logprobs, others[i].logprobs) << id;  // bit for bit
      EXPECT_EQ(samples[i].top, others[i].top) << id;
      EXPECT_EQ(samples[i].finish, others[i].finish) << id;
    }
  }
}

}  // namespace photon::testing
