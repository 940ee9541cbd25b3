#include <nlohmann/json.hpp>

#include "config/model_config.hpp"
#include "program.hpp"

namespace photon {
namespace {

using testing::Outcome;

constexpr const char* tiny = R"(model:
  vocab_size: 259
  tokenizer: byte
  dim: 8
  levels:
    - {dim: 12, chunk: 3, prefix: 2, encoder: {layers: 1, heads: 2, ffn: 10}, decoder: {layers: 1, heads: 2, ffn: 10}}
)";

class Init : public testing::ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    write("tiny.yaml", tiny);
  }
};

TEST_F(Init, WritesAWeightsFolder) {
  const Outcome outcome = photon("init --config tiny.yaml --seed 5 --output model --set model.levels.0.chunk=4");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto summary = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(summary["output"], "model");
  EXPECT_GT(summary["parameters"], 0);
  const ModelConfig config = model_config_from_json(read(path("model/config.json")), "config.json");
  EXPECT_EQ(config.levels[0].chunk, 4);
  EXPECT_EQ(config.tokenizer, "byte");
  EXPECT_TRUE(std::filesystem::exists(path("model/model.safetensors")));
}

TEST_F(Init, IsAFunctionOfTheSeed) {
  ASSERT_EQ(photon("init --config tiny.yaml --seed 5 --output a").code, 0);
  ASSERT_EQ(photon("init --config tiny.yaml --seed 5 --output b").code, 0);
  ASSERT_EQ(photon("init --config tiny.yaml --seed 6 --output c").code, 0);
  EXPECT_TRUE(read(path("a/model.safetensors")) == read(path("b/model.safetensors")));
  EXPECT_FALSE(read(path("a/model.safetensors")) == read(path("c/model.safetensors")));
}

TEST_F(Init, ReplacesNothing) {
  std::filesystem::create_directories(path("model"));
  write("model/precious.txt", "keep");
  const Outcome outcome = photon("init --config tiny.yaml --output model");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("model exists already"), std::string::npos) << outcome.err;
  EXPECT_EQ(read(path("model/precious.txt")), "keep");
  std::filesystem::create_directories(path("empty"));
  EXPECT_EQ(photon("init --config tiny.yaml --output empty").code, 0);
}

TEST_F(Init, TakesTheTokenizerAlong) {
  const Outcome missing = photon("init --config tiny.yaml --output model --set model.tokenizer=words.model");
  EXPECT_EQ(missing.code, 2);
  EXPECT_NE(missing.err.find("words.model is missing"), std::string::npos) << missing.err;
  std::filesystem::create_directories(path("far"));
  write("far/words.model", "any bytes");
  const Outcome outcome = photon("init --config tiny.yaml --output model --set model.tokenizer=far/words.model");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(read(path("model/words.model")), "any bytes");
  EXPECT_EQ(model_config_from_json(read(path("model/config.json")), "").tokenizer, "words.model");
}

TEST_F(Init, NamesConfigurationMistakes) {
  const Outcome outcome = photon("init --config tiny.yaml --output model --set model.dmi=4");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("unknown key model.dmi"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("did you mean model.dim?"), std::string::npos) << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(path("model")));
}

}  // namespace
}  // namespace photon
