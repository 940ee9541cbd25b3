#include "eval/score.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "reference.hpp"
#include "storage/hdf5.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using nlohmann::json;

class ScoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("photon_score_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    ModelConfig config = testing::all_shapes()[1].config;
    config.vocab_size = 259;
    config.tokenizer = "byte";
    model_.model = testing::random_model(config, 9);
    model_.tokenizer = make_byte_tokenizer();
    ctx_.numerics = Numerics::deterministic;
    options_.input = folder_ / "rows.jsonl";
    options_.output = folder_ / "scores.jsonl";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::vector<json> run(const std::string& rows) {
    std::ofstream(options_.input, std::ios::binary) << rows;
    summary_ = score(model_, ctx_, options_, [] {});
    std::ifstream input(options_.output);
    std::vector<json> results;
    for (std::string line; std::getline(input, line);) results.push_back(json::parse(line));
    return results;
  }

  std::filesystem::path folder_;
  OpenModel model_;
  Context ctx_;
  ScoreOptions options_;
  ScoreSummary summary_;
};

TEST_F(ScoreTest, IsTheLogSoftmaxOfTheLogitsInBothModes) {
  const std::vector<std::pair<std::string, std::string>> texts{{"In the beginning", " God"},
                                                               {"", "created the heaven and the earth"},
                                                               {"and", ""},
                                                               {"the earth was without form, and void", "; and"}};
  std::string rows;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    rows += json{{"id", fmt::format("r{}", i)}, {"context", texts[i].first}, {"continuation", texts[i].second}}.dump() +
            "\n";
    if (i == 1) rows += "\n";  // empty lines are no rows
  }
  options_.logits = folder_ / "logits.h5";
  for (const GenerationMode mode : {GenerationMode::hiergen, GenerationMode::recgen}) {
    options_.mode = mode;
    for (const std::int64_t batch_tokens : {1, 8192}) {
      options_.batch_tokens = batch_tokens;
      const auto results = run(rows);
      ASSERT_EQ(results.size(), texts.size());
      EXPECT_EQ(summary_.rows, 4);
      const Hdf5File file = Hdf5File::open(options_.logits);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const json& result = results[i];
        EXPECT_EQ(result["id"], fmt::format("r{}", i));
        const auto context = static_cast<std::int64_t>(texts[i].first.size());
        const auto count = static_cast<std::int64_t>(texts[i].second.size());
        EXPECT_EQ(result["num_tokens"], count);
        const auto expected =
            testing::score_reference(*model_.model, model_.tokenizer->encode(texts[i].first + texts[i].second),
                                     mode == GenerationMode::hiergen ? -1 : context);
        const std::string name = fmt::format("/logits/{}", i);
        ASSERT_EQ(file.shape(name), (Shape{count, 259}));
        std::vector<float> logits(static_cast<std::size_t>(count * 259));
        if (count > 0) file.read(name, host_view(logits.data(), {count, 259}));
        double sum = 0;
        bool greedy = true;
        for (std::int64_t j = 0; j < count; ++j) {
          const auto at = static_cast<std::size_t>(context + j);
          EXPECT_NEAR(result["token_logprobs"][static_cast<std::size_t>(j)].get<double>(), expected.logprobs[at], 1e-4);
          sum += expected.logprobs[at];
          greedy = greedy && expected.greedy[at];
          for (std::int64_t v = 0; v < 259; ++v) {
            ASSERT_NEAR(static_cast<double>(logits[static_cast<std::size_t>(j * 259 + v)]),
                        expected.logits[at][static_cast<std::size_t>(v)], 1e-4);
          }
        }
        EXPECT_NEAR(result["logprob"].get<double>(), sum, 1e-3);
        EXPECT_EQ(result["is_greedy"].get<bool>(), greedy);
      }
    }
  }
}

TEST_F(ScoreTest, TokensTextsAndOrder) {
  const auto results =
      run("{\"context_tokens\": [97, 98], \"continuation_tokens\": [99]}\n"
          "{\"id\": 7, \"context\": \"ab\", \"continuation\": \"c\"}\n"
          "{\"id\": 7, \"context_tokens\": [97, 98], \"continuation_tokens\": []}\n");
  ASSERT_EQ(results.size(), 3U);
  EXPECT_EQ(results[0]["id"], 0);
  EXPECT_EQ(results[1]["id"], 7);
  EXPECT_EQ(results[0]["token_logprobs"], results[1]["token_logprobs"]);
  EXPECT_EQ(
      results[2],
      (json{{"id", 7}, {"logprob", 0.0}, {"num_tokens", 0}, {"token_logprobs", json::array()}, {"is_greedy", true}}));
}

TEST_F(ScoreTest, GreedyContinuationsAreRecognised) {
  // The model's own most likely next byte, and another.
  const std::vector<std::int32_t> context{10, 20, 30, 40, 50, 0};
  const auto scores = testing::score_reference(*model_.model, context, -1);
  const auto& logits = scores.logits.back();
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  const auto results =
      run(fmt::format("{{\"context_tokens\": [10,20,30,40,50], \"continuation_tokens\": [{}]}}\n"
                      "{{\"context_tokens\": [10,20,30,40,50], \"continuation_tokens\": [{}]}}\n",
                      best, best == 0 ? 1 : 0));
  EXPECT_TRUE(results[0]["is_greedy"]);
  EXPECT_FALSE(results[1]["is_greedy"]);
}

TEST_F(ScoreTest, BadRowsGiveErrorsInTheirPlace) {
  const auto results =
      run("nonsense\n{\"id\": \"a\", \"context\": \"x\"}\n{\"id\": \"b\", \"context\": \"x\", \"continuation_tokens\": "
          "[1]}\n"
          "{\"id\": \"c\", \"context\": \"x\", \"continuaton\": \"y\"}\n{\"id\": \"d\", \"context_tokens\": [1], "
          "\"continuation_tokens\": [259]}\n"
          "{\"id\": \"e\", \"context\": \"x\", \"continuation\": \"y\"}\n");
  ASSERT_EQ(results.size(), 6U);
  const std::vector<std::string> parts{"not JSON", "no pair", "no pair", "did you mean 'continuation'?", "token 259"};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string message = results[i]["error"]["message"];
    EXPECT_NE(message.find(parts[i]), std::string::npos) << message;
  }
  EXPECT_EQ(results[0]["id"], 0);
  EXPECT_EQ(results[1]["id"], "a");
  EXPECT_EQ(results[5]["num_tokens"], 1);
  EXPECT_EQ(summary_.errors, 5);
}

TEST_F(ScoreTest, TheInputIsNotReplaced) {
  const std::string rows = "{\"context\": \"a\", \"continuation\": \"b\"}\n";
  for (std::filesystem::path ScoreOptions::*const replaced : {&ScoreOptions::output, &ScoreOptions::logits}) {
    ScoreOptions options = options_;
    options.*replaced = options.input;
    std::ofstream(options.input) << rows;
    EXPECT_THROW(score(model_, ctx_, options, [] {}), InputError);
    std::string text;
    std::ifstream kept(options.input);
    std::getline(kept, text);
    EXPECT_EQ(text + "\n", rows);
  }
}

TEST_F(ScoreTest, TheOutputIsReplacedOnlyWhenAllIsDone) {
  std::ofstream(options_.output) << "what was there\n";
  std::ofstream(options_.input) << "{\"context\": \"a\", \"continuation\": \"b\"}\n";
  options_.logits = folder_ / "logits.h5";
  EXPECT_THROW(score(model_, ctx_, options_, [] { throw Preempted("stop"); }), Preempted);
  std::string text;
  std::ifstream before(options_.output);
  std::getline(before, text);
  EXPECT_EQ(text, "what was there");
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) EXPECT_NE(entry.path().extension(), ".tmp");
  EXPECT_EQ(run("{\"context\": \"a\", \"continuation\": \"b\"}\n").size(), 1U);
  EXPECT_TRUE(std::filesystem::exists(options_.logits));
}

}  // namespace
}  // namespace photon
