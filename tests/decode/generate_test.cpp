// The job as a whole: files in and out, stopped and started again.
#include "decode/generate.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "../model/shapes.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using nlohmann::json;

class GenerateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("photon_generate_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    ModelConfig config = testing::all_shapes()[1].config;
    config.vocab_size = 259;
    config.tokenizer = "byte";
    model_.model = testing::random_model(config, 9);
    model_.tokenizer = make_byte_tokenizer();
    ctx_.numerics = Numerics::deterministic;
    options_.prompts = folder_ / "prompts.jsonl";
    options_.output = folder_ / "out.jsonl";
    options_.defaults.max_new_tokens = 24;
    options_.defaults.sampling.temperature = 0.8;
    options_.engine.max_batch = 5;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write_prompts(const std::string& text) const { std::ofstream(options_.prompts, std::ios::binary) << text; }
  GenerateSummary run() {
    return generate(model_, ctx_, options_, [] { return false; });
  }
  std::multiset<std::string> lines() const {
    std::ifstream input(options_.output);
    std::multiset<std::string> all;
    for (std::string line; std::getline(input, line);) all.insert(line);
    return all;
  }

  std::filesystem::path folder_;
  OpenModel model_;
  Context ctx_;
  GenerateOptions options_;
};

std::string mixed_prompts() {
  std::string text;
  for (int i = 0; i < 40; ++i) {
    text += fmt::format(R"({{"id": "row {}", "prompt": "{}", "n": {}, "stop": ["e"], "max_new_tokens": {}}})", i,
                        std::string(static_cast<std::size_t>(i % 19), 'a'), 1 + (i % 6 == 0), 3 + i % 30);
    text += "\n";
    if (i % 10 == 3) text += "{\"id\": \"row 0\", \"prompt\": \"again\"}\n";
    if (i % 10 == 5) text += "not json\n";
    if (i % 10 == 7) text += fmt::format("{{\"id\": \"bad {}\", \"prompt\": \"\", \"top_k\": -1}}\n", i);
  }
  return text;
}

TEST_F(GenerateTest, StoppedAnywhereAndStartedAgainGivesTheSameRowsOnce) {
  write_prompts(mixed_prompts());
  for (const GenerationMode mode : {GenerationMode::hiergen, GenerationMode::recgen}) {
    options_.engine.mode = mode;
    std::filesystem::remove(options_.output);
    const GenerateSummary whole = run();
    EXPECT_EQ(whole.engine.rows, 40);
    EXPECT_EQ(whole.engine.errors, 12);
    EXPECT_EQ(whole.num_resumed, 0);
    const auto undisturbed = lines();
    ASSERT_EQ(undisturbed.size(), 52U);

    std::filesystem::remove(options_.output);
    int starts = 0;
    for (bool done = false; !done; ++starts) {
      int polls = 0;
      try {
        generate(model_, ctx_, options_, [&] { return ++polls > 3 + starts % 5; });
        done = true;
      } catch (const Preempted& preempted) {
        EXPECT_NE(std::string(preempted.what()).find("start the same command again"), std::string::npos);
        // What a kill in the middle of a write leaves.
        if (starts % 2 == 0) std::ofstream(options_.output, std::ios::app) << "{\"id\":\"row 39\",\"te";
      }
      ASSERT_LT(starts, 100);
      options_.engine.max_batch = 1 + starts % 7;
    }
    EXPECT_GT(starts, 3);
    EXPECT_EQ(lines(), undisturbed);
    // A finished job has nothing to do.
    const GenerateSummary again = run();
    EXPECT_EQ(again.num_resumed, 52);
    EXPECT_EQ(again.engine.rows + again.engine.errors, 0);
    EXPECT_EQ(lines(), undisturbed);
  }
}

TEST_F(GenerateTest, StopStringsAndFormsOfResults) {
  write_prompts(
      "{\"id\": 1, \"prompt\": \"x\", \"max_new_tokens\": 200, \"temperature\": 1.5}\n"
      "{\"id\": 2, \"tokens\": [120], \"n\": 3}\n");
  run();
  for (const std::string& line : lines()) {
    const json row = json::parse(line);
    if (row["id"] == 1) {
      EXPECT_TRUE(row["finish_reason"] == "eos" || row["finish_reason"] == "length");
      EXPECT_TRUE(row["text"].is_string());
      EXPECT_FALSE(row.contains("logprobs"));
    } else {
      ASSERT_EQ(row["outputs"].size(), 3U);
      EXPECT_NE(row["outputs"][0]["tokens"], row["outputs"][1]["tokens"]);
    }
  }
  // The text up to a stop string is the text without it, cut there.
  const json free = json::parse(*lines().begin());
  const std::vector<std::int32_t> tokens = free["tokens"];
  const std::string text = model_.tokenizer->decode(tokens);
  std::size_t at = 0;  // two characters of plain ASCII inside the text
  for (at = 5; at + 1 < text.size(); ++at) {
    if (text[at] > ' ' && text[at + 1] > ' ' && text[at] < 127 && text[at + 1] < 127 && text[at] != '"' &&
        text[at + 1] != '"' && text[at] != '\\' && text[at + 1] != '\\') {
      break;
    }
  }
  ASSERT_LT(at + 1, text.size());
  const std::string stop = text.substr(at, 2);
  std::filesystem::remove(options_.output);
  write_prompts("{\"id\": 1, \"prompt\": \"x\", \"max_new_tokens\": 200, \"temperature\": 1.5, \"stop\": \"" + stop +
                "\"}\n");
  run();
  const json stopped = json::parse(*lines().begin());
  EXPECT_EQ(stopped["finish_reason"], "stop");
  const std::size_t first = text.find(stop);
  const std::vector<std::int32_t> kept = stopped["tokens"];
  EXPECT_EQ(model_.tokenizer->decode(kept), text.substr(0, first + 2));
  EXPECT_EQ(stopped["text"],
            json::parse(json(text.substr(0, first)).dump(-1, ' ', false, json::error_handler_t::replace)));
}

TEST_F(GenerateTest, ErrorsAreTriedAgainOnRequest) {
  write_prompts("{\"id\": 1, \"prompt\": \"x\", \"top_k\": -1}\n{\"id\": 2, \"prompt\": \"y\"}\n");
  EXPECT_EQ(run().engine.errors, 1);
  write_prompts("{\"id\": 1, \"prompt\": \"x\", \"top_k\": 1}\n{\"id\": 2, \"prompt\": \"y\"}\n");
  EXPECT_EQ(run().engine.rows, 0);
  options_.retry_errors = true;
  EXPECT_EQ(run().engine.rows, 1);
  ASSERT_EQ(lines().size(), 2U);
  for (const std::string& line : lines()) EXPECT_TRUE(json::parse(line).contains("text"));
}

TEST_F(GenerateTest, RefusesWhatCannotWorkBeforeWriting) {
  EXPECT_THROW(run(), InputError);  // no prompts
  EXPECT_FALSE(std::filesystem::exists(options_.output));
  write_prompts("");
  options_.defaults.sampling.top_p = 3;
  EXPECT_THROW(run(), InputError);
  EXPECT_FALSE(std::filesystem::exists(options_.output));
  options_.defaults.sampling.top_p = 1;
  ModelConfig block = testing::all_shapes()[0].config;
  model_.model = testing::random_model(block, 1);
  options_.engine.mode = GenerationMode::recgen;
  EXPECT_THROW(run(), InputError);
  EXPECT_FALSE(std::filesystem::exists(options_.output));
}

}  // namespace
}  // namespace photon
