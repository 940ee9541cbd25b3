// The steady rate of photon bench decode --table, on a small model.
#include "cli/decode_measure.hpp"

#include <gtest/gtest.h>

#include "model/model.hpp"
#include "partition/decode_cost.hpp"
#include "support/error.hpp"

namespace photon::cli {
namespace {

ModelConfig small_model() {
  ModelConfig config;
  config.vocab_size = 40;
  config.dim = 8;
  for (int l = 0; l < 2; ++l) {
    LevelConfig level;
    level.dim = 8;
    level.chunk = 2;
    level.prefix = 2;
    level.encoder.layers = level.decoder.layers = 1;
    level.encoder.heads = level.decoder.heads = 2;
    level.encoder.kv_heads = level.decoder.kv_heads = 2;
    level.encoder.ffn = level.decoder.ffn = 12;
    config.levels.push_back(level);
  }
  validate(config);
  return config;
}

class Steady : public ::testing::Test {
 protected:
  Steady() : model_(make_model(config_, Space::host, 0)) {
    source_ = decoder_source(*model_, place_.context());
    // As much memory as `rows_` whole rows take.
    source_.slot_bytes = [this](std::int64_t) { return std::max<std::int64_t>(1, memory() / rows_); };
  }
  std::int64_t memory() const { return 2 * cache_memory(place_, config_, false).bytes + 1; }

  ModelConfig config_ = small_model();
  Place place_{"cpu", "auto", Numerics::tuned};
  std::unique_ptr<Model> model_;
  DecoderSource source_;
  std::int64_t rows_ = 20;
};

TEST_F(Steady, MeasuresTheMiddleOfTheAnswers) {
  for (const char* mode : {"hiergen", "recgen"}) {
    const std::int64_t prompt = 100;
    const std::int64_t new_tokens = 200;
    SteadyDecoding decoding(config_, source_, place_, mode, prompt, new_tokens);
    ASSERT_GE(decoding.most_rows(), 2) << mode;
    for (const std::int64_t rows : {std::int64_t{7}, std::int64_t{2}, std::int64_t{1}}) {
      const SteadyDecoding::Rate rate = decoding.measure(std::min(rows, decoding.most_rows()));
      EXPECT_EQ(rate.rows, std::min(rows, decoding.most_rows())) << mode;
      EXPECT_GT(rate.seconds, 0) << mode;
      EXPECT_NEAR(rate.tokens_per_second * rate.seconds, rate.tokens_a_row * static_cast<double>(rate.rows), 1e-6)
          << mode;
      // 64 tokens of every row, in whole rounds of at most four groups of 4, around the middle of the answer.
      EXPECT_GE(rate.tokens_a_row, 64) << mode;
      EXPECT_LE(rate.tokens_a_row, 64 + 16) << mode;
      const double middle = static_cast<double>(rate.from) + rate.tokens_a_row / 2;
      EXPECT_NEAR(middle, static_cast<double>(prompt) + static_cast<double>(new_tokens) / 2, 16 + 8 + 4) << mode;
      EXPECT_LE(static_cast<double>(rate.from) + rate.tokens_a_row, static_cast<double>(prompt + new_tokens)) << mode;
    }
  }
}

TEST_F(Steady, ShortAnswersAreMeasuredInHalf) {
  SteadyDecoding decoding(config_, source_, place_, "hiergen", 0, 32);
  const SteadyDecoding::Rate rate = decoding.measure(1);
  EXPECT_EQ(rate.tokens_a_row, 16);
  EXPECT_GE(rate.from, 16);
}

TEST_F(Steady, RowsThatDoNotFitAreRefused) {
  SteadyDecoding decoding(config_, source_, place_, "hiergen", 8, 32);
  EXPECT_THROW(decoding.measure(2 * decoding.most_rows() + 8), Error);
}

TEST(DecodeCases, AreReadAndRefused) {
  const DecodeCase c = parse_decode_case("recgen:0:128:256");
  EXPECT_EQ(c.mode, "recgen");
  EXPECT_EQ(c.batch, 0);
  EXPECT_EQ(c.prompt, 128);
  EXPECT_EQ(c.new_tokens, 256);
  for (const char* bad : {"hiergen:1:2", "hiergen:-1:2:3", "hiergen:1:2:0", "other:1:2:3", "hiergen:1x:2:3"}) {
    EXPECT_THROW(parse_decode_case(bad), InputError) << bad;
  }
}

}  // namespace
}  // namespace photon::cli
