#include <nlohmann/json.hpp>

#include "program.hpp"

namespace photon {
namespace {

using testing::Outcome;

class Inspect : public testing::ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    write("tiny.yaml", R"(model:
  vocab_size: 259
  tokenizer: byte
  dim: 8
  levels:
    - {dim: 12, chunk: 4, prefix: 2, encoder: {layers: 3, heads: 2, ffn: 10}, decoder: {layers: 1, heads: 2, ffn: 10}}
)");
    ASSERT_EQ(photon("init --config tiny.yaml --output model").code, 0);
  }
};

TEST_F(Inspect, WritesLayersAlikeOnce) {
  const Outcome outcome = photon("inspect --model model");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto count = [&](const std::string& text) {
    std::size_t found = 0;
    for (auto at = outcome.out.find(text); at != std::string::npos; at = outcome.out.find(text, at + 1)) ++found;
    return found;
  };
  EXPECT_EQ(count("  levels.0.encoder.layers.{0..2}.attn_norm.weight [12]\n"), 1U) << outcome.out;
  EXPECT_EQ(count("  levels.0.decoder.layers.0.mlp.down_proj.weight [8,10]\n"), 1U) << outcome.out;
  EXPECT_EQ(count("  embed.weight [259,8]\n"), 1U) << outcome.out;
  EXPECT_EQ(count("encoder.layers."), 9U) << outcome.out;
  EXPECT_EQ(count(" GFLOP a token forward, in sequences of 2048 tokens\n"), 1U) << outcome.out;
}

TEST_F(Inspect, ListsEveryTensorForPrograms) {
  const auto json = nlohmann::json::parse(photon("inspect --model model --json").out);
  std::int64_t elements = 0;
  for (const auto& tensor : json["tensors"]) {
    std::int64_t size = 1;
    for (const auto& extent : tensor["shape"]) size *= extent.get<std::int64_t>();
    elements += size;
  }
  EXPECT_EQ(json["num_parameters"], elements);
  EXPECT_EQ(json["tensors"].size(), 3U + 2U + 4U * 9U + 2U);
  // The head's product is a lower bound, and most of so small a model's work.
  const double head = 2.0 * 8 * 259 / 1e9;
  EXPECT_GT(json["forward_gflops_per_token"].get<double>(), head);
  EXPECT_LT(json["forward_gflops_per_token"].get<double>(), 10 * head);
}

}  // namespace
}  // namespace photon
