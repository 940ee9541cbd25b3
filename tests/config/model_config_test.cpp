#include "config/model_config.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "expect_error.hpp"

namespace photon {
namespace {

using testing::expect_input_error;

// Three levels, everything unequal.
constexpr const char* uneven = R"({
  "format_version": 1, "model_type": "photon", "vocab_size": 300, "dim": 12, "tie_embeddings": true, "lookback": 3,
  "norm_eps": 1e-6, "max_length": 4096, "tokenizer": "byte",
  "levels": [
    {"dim": 16, "chunk": 3, "prefix": 2, "encoder": {"layers": 1, "heads": 4, "kv_heads": 2, "ffn": 20, "rope_theta": 500, "window": 7},
     "decoder": {"layers": 2, "heads": 3, "kv_heads": 1, "ffn": 30, "rope_theta": 600}},
    {"dim": 8, "chunk": 2, "prefix": 5, "encoder": {"layers": 3, "heads": 2, "kv_heads": 2, "ffn": 10, "rope_theta": 700, "window": 0},
     "decoder": {"layers": 1, "heads": 8, "kv_heads": 8, "ffn": 11, "rope_theta": 0.1}},
    {"dim": 4, "chunk": 5, "prefix": 1, "encoder": {"layers": 1, "heads": 1, "kv_heads": 1, "ffn": 1, "rope_theta": 10000, "window": 0},
     "decoder": {"layers": 1, "heads": 1, "kv_heads": 1, "ffn": 1, "rope_theta": 10000}}]
})";

// The least a file may hold.
constexpr const char* minimal = R"({"format_version": 1, "model_type": "photon", "vocab_size": 2, "dim": 4, "levels": [
  {"dim": 8, "chunk": 4, "prefix": 1, "encoder": {"layers": 1, "heads": 2, "ffn": 3}, "decoder": {"layers": 1, "heads": 2, "ffn": 3}}]})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

ModelConfig read(const std::string& text) {
  return model_config_from_json(text, "config.json");
}

TEST(ConfigJson, ReadsEveryKey) {
  const ModelConfig c = read(uneven);
  EXPECT_EQ(c.type, ModelType::photon);
  EXPECT_EQ(c.vocab_size, 300);
  EXPECT_EQ(c.dim, 12);
  EXPECT_TRUE(c.tie_embeddings);
  EXPECT_EQ(c.lookback, 3);
  EXPECT_EQ(c.norm_eps, 1e-6);
  EXPECT_EQ(c.max_length, 4096);
  EXPECT_EQ(c.tokenizer, "byte");
  ASSERT_EQ(c.num_levels(), 3);
  const LevelConfig& level = c.levels[0];
  EXPECT_EQ(level.dim, 16);
  EXPECT_EQ(level.chunk, 3);
  EXPECT_EQ(level.prefix, 2);
  EXPECT_EQ(level.encoder.layers, 1);
  EXPECT_EQ(level.encoder.heads, 4);
  EXPECT_EQ(level.encoder.kv_heads, 2);
  EXPECT_EQ(level.encoder.ffn, 20);
  EXPECT_EQ(level.encoder.rope_theta, 500);
  EXPECT_EQ(level.encoder.window, 7);
  EXPECT_EQ(level.decoder.layers, 2);
  EXPECT_EQ(level.decoder.kv_heads, 1);
  EXPECT_EQ(c.levels[1].decoder.rope_theta, 0.1);
  EXPECT_EQ(c.width(0), 12);
  EXPECT_EQ(c.width(2), 8);
  EXPECT_EQ(c.cumulative_chunk(2), 6);
  EXPECT_EQ(c.group_tokens(), 30);
  EXPECT_EQ(c.decoder_positions(1), 2 + 3 + 3 - 1);
  EXPECT_EQ(c.decoder_positions(2), 5 + 2 - 1);
}

TEST(ConfigJson, RoundTrips) {
  for (const ModelConfig& c : {read(uneven), read(minimal), preset("photon-600m"), preset("vanilla-1.2b")}) {
    EXPECT_EQ(read(to_json_text(c)), c);
  }
}

TEST(ConfigJson, FillsDefaults) {
  const ModelConfig c = read(minimal);
  EXPECT_FALSE(c.tie_embeddings);
  EXPECT_EQ(c.lookback, 0);
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_EQ(c.max_length, 0);
  EXPECT_EQ(c.levels[0].encoder.kv_heads, 2);
  EXPECT_EQ(c.levels[0].decoder.kv_heads, 2);
  EXPECT_EQ(c.levels[0].encoder.rope_theta, 10000);
  EXPECT_EQ(c.levels[0].encoder.window, 0);
}

TEST(ConfigJson, WritesTheKeysOfTheFormatInOrder) {
  EXPECT_EQ(to_json_text(read(minimal)), R"({
  "format_version": 1,
  "model_type": "photon",
  "vocab_size": 2,
  "dim": 4,
  "tie_embeddings": false,
  "lookback": 0,
  "norm_eps": 1e-05,
  "max_length": 0,
  "tokenizer": "",
  "levels": [
    {
      "dim": 8,
      "chunk": 4,
      "prefix": 1,
      "encoder": {
        "layers": 1,
        "heads": 2,
        "kv_heads": 2,
        "ffn": 3,
        "rope_theta": 10000.0,
        "window": 0
      },
      "decoder": {
        "layers": 1,
        "heads": 2,
        "kv_heads": 2,
        "ffn": 3,
        "rope_theta": 10000.0
      }
    }
  ]
}
)");
  EXPECT_EQ(to_json_text(preset("vanilla-600m")), R"({
  "format_version": 1,
  "model_type": "vanilla",
  "vocab_size": 32000,
  "dim": 1536,
  "layers": 18,
  "heads": 12,
  "kv_heads": 12,
  "ffn": 4096,
  "rope_theta": 10000.0,
  "norm_eps": 1e-05,
  "tie_embeddings": false,
  "max_length": 0,
  "tokenizer": ""
}
)");
}

TEST(ConfigJson, RefusesWhatItDoesNotKnow) {
  expect_input_error([] { read(replaced(minimal, "\"vocab_size\"", "\"vocab_siez\"")); },
                     {"unknown key vocab_siez", "config.json", "did you mean vocab_size?"});
  expect_input_error([] { read(replaced(minimal, "\"ffn\"", "\"fnn\"")); },
                     {"unknown key levels[0].encoder.fnn", "did you mean levels[0].encoder.ffn?"});
  expect_input_error(
      [] { read(replaced(minimal, "\"heads\": 2, \"ffn\": 3}}", "\"heads\": 2, \"ffn\": 3, \"window\": 4}}")); },
      {"unknown key levels[0].decoder.window"});
  expect_input_error([] { read(replaced(minimal, "\"photon\"", "\"vanilla\"")); }, {"levels is out of place"});
  expect_input_error([] { read(replaced(minimal, "\"photon\"", "\"foton\"")); },
                     {"model_type is \"foton\"", "one of photon, vanilla"});
}

TEST(ConfigJson, RefusesANewerFormatByName) {
  // A newer format may have keys of its own: the version is what the message must name.
  const std::string text =
      replaced(replaced(minimal, "\"format_version\": 1", "\"format_version\": 2"), "\"dim\"", "\"brand_new\"");
  expect_input_error([&] { read(text); },
                     {"format_version 2 of config.json", "newer than the 1 this photon reads", "update photon"});
  expect_input_error([] { read(replaced(minimal, "\"format_version\": 1", "\"format_version\": 0")); },
                     {"format_version is 0"});
}

TEST(ConfigJson, RefusesMissingKeysAndWrongTypes) {
  expect_input_error([] { read(replaced(minimal, "\"format_version\": 1,", "")); }, {"format_version is missing"});
  expect_input_error([] { read(replaced(minimal, "\"model_type\": \"photon\",", "")); }, {"model_type is missing"});
  expect_input_error([] { read(replaced(minimal, "\"vocab_size\": 2,", "")); },
                     {"vocab_size is missing", "config.json"});
  expect_input_error([] { read(replaced(minimal, "\"chunk\": 4,", "")); }, {"levels[0].chunk is missing"});
  expect_input_error([] { read(replaced(minimal, "\"vocab_size\": 2", "\"vocab_size\": \"2\"")); },
                     {"vocab_size is \"2\"", "must be an integer"});
  expect_input_error([] { read(replaced(minimal, "\"vocab_size\": 2", "\"vocab_size\": 2.5")); },
                     {"vocab_size is 2.5"});
  expect_input_error([] { read(replaced(minimal, "\"vocab_size\": 2", "\"vocab_size\": true")); },
                     {"vocab_size is true"});
  expect_input_error([] { read(replaced(minimal, "\"vocab_size\": 2", "\"vocab_size\": 99999999999999999999")); },
                     {"vocab_size is"});
  expect_input_error([] { read(replaced(minimal, "\"vocab_size\": 2", "\"vocab_size\": 18446744073709551615")); },
                     {"vocab_size is"});
  expect_input_error(
      [] { read("{\"format_version\": 1, \"model_type\": \"photon\", \"vocab_size\": 2, \"dim\": 4, \"levels\": 3}"); },
      {"levels is 3", "must be a list"});
  expect_input_error(
      [] {
        read("{\"format_version\": 1, \"model_type\": \"photon\", \"vocab_size\": 2, \"dim\": 4, \"levels\": [3]}");
      },
      {"levels[0] is 3", "must be a section"});
  expect_input_error(
      [] {
        read("{\"format_version\": 1, \"model_type\": \"photon\", \"vocab_size\": 2, \"dim\": 4, \"levels\": []}");
      },
      {"levels is empty"});
}

TEST(ConfigJson, RefusesWhatIsNoConfigJson) {
  expect_input_error([] { read("{\"dim\": 1,"); }, {"config.json is not valid JSON", "line 1"});
  expect_input_error([] { read(""); }, {"config.json is not valid JSON"});
  expect_input_error([] { read("[1]"); }, {"config.json is not a JSON object"});
  expect_input_error([] { read("{\"dim\": 1, \"dim\": 2}"); }, {"dim is given twice", "config.json"});
}

TEST(Validate, ChecksRangesAndWhatKeysMustSatisfyTogether) {
  const auto broken = [](auto change) {
    return [change] {
      ModelConfig c = read(uneven);
      change(c);
      validate(c);
    };
  };
  expect_input_error(broken([](auto& c) { c.vocab_size = 1; }), {"model.vocab_size is 1", "at least 2"});
  expect_input_error(broken([](auto& c) { c.vocab_size = 258; }),
                     {"model.vocab_size is 258", "byte tokenizer has 259"});
  expect_input_error(broken([](auto& c) { c.vocab_size = 1LL << 40; }), {"model.vocab_size", "at most 2147483648"});
  expect_input_error(broken([](auto& c) { c.dim = 0; }), {"model.dim is 0"});
  expect_input_error(broken([](auto& c) { c.lookback = -1; }), {"model.lookback is -1"});
  expect_input_error(broken([](auto& c) { c.norm_eps = 0; }), {"model.norm_eps is 0", "above 0"});
  expect_input_error(broken([](auto& c) { c.norm_eps = std::nan(""); }), {"model.norm_eps is nan"});
  expect_input_error(broken([](auto& c) { c.levels[2].chunk = 0; }), {"model.levels[2].chunk is 0"});
  expect_input_error(broken([](auto& c) { c.levels[0].prefix = 0; }), {"model.levels[0].prefix is 0"});
  expect_input_error(broken([](auto& c) { c.levels[0].encoder.layers = 0; }), {"model.levels[0].encoder.layers is 0"});
  expect_input_error(broken([](auto& c) { c.levels[0].encoder.window = -2; }),
                     {"model.levels[0].encoder.window is -2"});
  expect_input_error(broken([](auto& c) { c.levels[0].decoder.window = 2; }),
                     {"model.levels[0].decoder.window is set"});
  expect_input_error(broken([](auto& c) { c.levels[1].encoder.rope_theta = std::numeric_limits<double>::infinity(); }),
                     {"model.levels[1].encoder.rope_theta is inf"});
  // The encoder has the width of its level, the decoder that of the level below.
  expect_input_error(broken([](auto& c) { c.levels[0].encoder.heads = c.levels[0].encoder.kv_heads = 3; }),
                     {"model.levels[0].encoder.heads is 3", "must divide the width, 16"});
  expect_input_error(broken([](auto& c) { c.levels[0].decoder.heads = c.levels[0].decoder.kv_heads = 8; }),
                     {"model.levels[0].decoder.heads is 8", "must divide the width, 12"});
  expect_input_error(broken([](auto& c) { c.levels[0].decoder.heads = c.levels[0].decoder.kv_heads = 4; }),
                     {"model.levels[0].decoder.heads is 4", "3 wide", "even"});
  expect_input_error(broken([](auto& c) { c.levels[0].encoder.kv_heads = 3; }),
                     {"model.levels[0].encoder.kv_heads is 3", "must divide heads, 4"});
  // Lookback counts at level 1 only.
  EXPECT_NO_THROW(broken([](auto& c) { c.levels[0].prefix = 64 - 3 - 3 + 1; })());
  expect_input_error(broken([](auto& c) { c.levels[0].prefix = 64 - 3 - 3 + 2; }),
                     {"model.levels[0].prefix makes a decoder of 65 positions", "at most 64"});
  EXPECT_NO_THROW(broken([](auto& c) { c.levels[1].prefix = 64 - 2 + 1; })());
  expect_input_error(broken([](auto& c) {
                       c.levels[1].chunk = c.levels[2].chunk = 60;
                       c.levels.resize(8, c.levels[2]);
                       for (auto& level : c.levels) level.prefix = 1;
                     }),
                     {"chunk makes a unit of", "tokens"});
}

TEST(Presets, AllAreNamedAndValid) {
  for (const std::string& name : preset_names()) {
    const ModelConfig c = preset(name);
    EXPECT_EQ(c.vocab_size, 32000) << name;
    EXPECT_FALSE(c.tie_embeddings) << name;
    EXPECT_EQ(c.type == ModelType::vanilla, name.rfind("vanilla", 0) == 0) << name;
    if (c.type == ModelType::photon) {
      EXPECT_EQ(c.group_tokens(), 16) << name;
      EXPECT_EQ(c.decoder_positions(2), 7) << name;
    }
  }
  const ModelConfig c =
      preset("photon-900m");  // layers 5, 5, 4, 4 in the order encoder 1, encoder 2, decoder 2, decoder 1
  EXPECT_EQ(c.levels[0].encoder.layers, 5);
  EXPECT_EQ(c.levels[1].encoder.layers, 5);
  EXPECT_EQ(c.levels[1].decoder.layers, 4);
  EXPECT_EQ(c.levels[0].decoder.layers, 4);
  EXPECT_EQ(preset("photon-60m").levels[1].decoder.layers, 2);
  expect_input_error([] { preset("photon-120m"); }, {"unknown preset photon-120m", "did you mean photon-125m?"});
}

}  // namespace
}  // namespace photon
