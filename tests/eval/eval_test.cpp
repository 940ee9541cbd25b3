#include "eval/eval.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>

#include "reference.hpp"
#include "storage/hdf5.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

class EvalTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t num_tokens = 47;
  static constexpr std::int64_t num_bytes = 91;
  static constexpr std::int64_t length = 10;  // 4 sequences and one of 7

  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("photon_eval_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    tokens_ = testing::TokenBatch(1, num_tokens, vocab, 12).ids;
    for (std::int64_t i = 0; i < num_tokens; ++i) mask_.push_back(i % 7 == 3 ? 0 : 1);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write_file(bool masked) const {
    const std::filesystem::path path = folder_ / (masked ? "masked.h5" : "plain.h5");
    const std::vector<std::uint16_t> stored(tokens_.begin(), tokens_.end());
    const std::vector<std::uint64_t> offsets{0, static_cast<std::uint64_t>(num_tokens)};
    Hdf5File file = Hdf5File::create(path);
    file.write("/tokens", host_view(stored.data(), {num_tokens}));
    file.write("/document_offsets", host_view(offsets.data(), {2}));
    if (masked) file.write("/loss_mask", host_view(mask_.data(), {num_tokens}));
    file.set_attribute("format_version", std::int64_t{1});
    file.set_attribute("tokenizer", std::string("byte"));
    file.set_attribute("tokenizer_hash", std::string("0"));
    file.set_attribute("vocab_size", vocab);
    file.set_attribute("num_tokens", num_tokens);
    file.set_attribute("num_bytes", num_bytes);
    file.close();
    return path;
  }

  // Mean of -log p over tokens that count, and how many do.
  std::pair<double, std::int64_t> by_hand(Model& model, bool masked, GenerationMode mode, std::int64_t prompt) const {
    double sum = 0;
    std::int64_t count = 0;
    for (std::int64_t begin = 0; begin < num_tokens; begin += length) {
      const std::int64_t end = std::min(begin + length, num_tokens);
      const auto scores =
          testing::score_reference(model, {tokens_.begin() + begin, tokens_.begin() + end},
                                   mode == GenerationMode::hiergen ? -1 : std::min(prompt, end - begin));
      for (std::int64_t i = begin + prompt; i < end; ++i) {
        if (masked && mask_[static_cast<std::size_t>(i)] == 0) continue;
        sum -= scores.logprobs[static_cast<std::size_t>(i - begin)];
        ++count;
      }
    }
    return {sum / static_cast<double>(count), count};
  }

  static constexpr std::int64_t vocab = 17;  // no shape has fewer
  std::filesystem::path folder_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::uint8_t> mask_;
};

TEST_F(EvalTest, IsTheMeanOverTheTokensThatCount) {
  const TokenFile plain = TokenFile::open(write_file(false));
  const TokenFile masked = TokenFile::open(write_file(true));
  for (const testing::NamedConfig& shape : testing::all_shapes()) {
    const auto model = testing::random_model(shape.config, 2);
    for (const bool use_mask : {false, true}) {
      for (const std::int64_t prompt : {0, 3, 8}) {
        EvalOptions options;
        options.sequence_length = length;
        options.prompt_tokens = prompt;
        options.batch_size = use_mask ? 3 : 0;
        for (const GenerationMode mode : {GenerationMode::hiergen, GenerationMode::recgen}) {
          if (mode == GenerationMode::recgen && (shape.config.num_levels() < 2 || shape.config.lookback > 0)) continue;
          options.mode = mode;
          int polls = 0;
          const EvalResult result =
              evaluate_dataset(*model, Context{}, use_mask ? masked : plain, options, [&] { ++polls; });
          const auto [ce, count] = by_hand(*model, use_mask, mode, prompt);
          EXPECT_NEAR(result.ce, ce, 1e-4) << shape.name << " prompt " << prompt;
          EXPECT_EQ(result.num_tokens, count);
          EXPECT_EQ(result.num_sequences, 5);
          EXPECT_EQ(polls, use_mask ? 3 : 2);
          EXPECT_DOUBLE_EQ(result.perplexity(), std::exp(result.ce));
          EXPECT_DOUBLE_EQ(result.bits_per_byte(), result.ce / std::numbers::ln2 * 47.0 / 91.0);
          const auto json = nlohmann::json::parse(to_json(result, options));
          EXPECT_EQ(json["loss"].get<double>(), result.ce);
          EXPECT_EQ(json["num_bytes"], 91);
          EXPECT_EQ(json.contains("rec"), mode == GenerationMode::hiergen);
        }
      }
    }
  }
}

TEST_F(EvalTest, RefusesWhatItCannotMeasure) {
  const TokenFile file = TokenFile::open(write_file(false));
  const auto shapes = testing::all_shapes();
  const auto model = testing::random_model(shapes[0].config, 2);  // one level
  const auto expect_refusal = [&](const EvalOptions& options, const std::string& part) {
    try {
      evaluate_dataset(*model, Context{}, file, options, [] {});
      ADD_FAILURE() << "not refused: " << part;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  EvalOptions options;
  options.sequence_length = 10;
  options.prompt_tokens = 10;
  expect_refusal(options, "no token of a sequence of 10");
  options.prompt_tokens = 0;
  options.mode = GenerationMode::recgen;
  expect_refusal(options, "RecGen cannot be used");
}

TEST_F(EvalTest, DefaultLengthIsTheRuns) {
  EXPECT_EQ(default_sequence_length(folder_, 0), 2048);
  EXPECT_EQ(default_sequence_length(folder_, 100), 100);
  std::ofstream(folder_ / "config.yaml")
      << "model: {preset: photon-60m}\ndata: {train: x.h5}\ntrain: {sequence_length: 512}\n";
  std::filesystem::create_directories(folder_ / "checkpoints" / "step-1");
  std::filesystem::create_directories(folder_ / "model");
  EXPECT_EQ(default_sequence_length(folder_, 0), 512);
  EXPECT_EQ(default_sequence_length(folder_ / "model", 0), 512);
  EXPECT_EQ(default_sequence_length(folder_ / "checkpoints" / "step-1", 0), 512);
}

}  // namespace
}  // namespace photon
