#include "checkpoint/llama.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "fixtures.hpp"
#include "support/error.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {
namespace fs = std::filesystem;
using testing::TemporaryFolder;

// Puts a value into config.json; "" removes the key.
void set_key(const fs::path& folder, const std::string& key, const std::string& value) {
  auto json = nlohmann::json::parse(testing::read_bytes(folder / "config.json"));
  json.erase(key);
  if (!value.empty()) json[key] = nlohmann::json::parse(value);
  testing::write_bytes(folder / "config.json", json.dump());
}

class Llama : public ::testing::Test {
 protected:
  fs::path exported(const ModelConfig& config) {
    const fs::path path = folder_ / "hf";
    export_llama(path, config, testing::random_parameters(config, 3), DType::f32, {1, 2, -1});
    return path;
  }
  TemporaryFolder folder_;
};

TEST_F(Llama, ExportAndImportKeepEverything) {
  for (const bool tied : {false, true}) {
    ModelConfig config = testing::small_vanilla(tied);
    config.start_token = 4;
    const fs::path path = exported(config);
    EXPECT_TRUE(is_hugging_face_folder(path));
    const LoadedModel back = import_llama(path);
    EXPECT_TRUE(back.config == config);
    EXPECT_TRUE(testing::same_bits(back.parameters, testing::random_parameters(config, 3)));
  }
}

TEST_F(Llama, ReadsWhatOthersWrite) {
  const ModelConfig config = testing::small_vanilla();
  const fs::path path = exported(config);
  set_key(path, "photon", "");
  set_key(path, "rope_theta", "");
  set_key(path, "rope_parameters", R"({"rope_type": "default", "rope_theta": 20000.0})");
  set_key(path, "rope_scaling", "null");
  testing::write_bytes(path / "tokenizer.model", "pieces");
  const LoadedModel back = import_llama(path);
  EXPECT_EQ(back.config.stack.rope_theta, 20000.0);
  EXPECT_EQ(back.config.tokenizer, "tokenizer.model");
  EXPECT_EQ(back.config.start_token, 1);
  EXPECT_EQ(back.config.max_length, llama_max_positions);
  EXPECT_EQ(back.config.norm_eps, config.norm_eps);
}

TEST_F(Llama, RefusesByNameWhatItDoesNotCompute) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"rope_scaling", R"({"rope_type": "llama3", "factor": 8.0})"},
      {"rope_scaling", R"({"type": "linear", "factor": 2.0})"},
      {"rope_parameters", R"({"rope_type": "yarn", "rope_theta": 10000.0})"},
      {"rope_parameters", R"({"rope_type": "default", "rope_theta": 10000.0, "factor": 2.0})"},
      {"attention_bias", "true"},
      {"mlp_bias", "true"},
      {"hidden_act", "\"gelu\""},
      {"head_dim", "8"},
      {"num_attention_heads", "5"},
      {"architectures", R"(["MistralForCausalLM"])"},
      {"model_type", "\"mistral\""},
      {"quantization_config", R"({"bits": 4})"},
      {"hidden_size", "\"16\""},
      {"vocab_size", "0"},
      {"num_hidden_layers", ""},
      {"photon", "7"},
  };
  for (const auto& [key, value] : cases) {
    const fs::path path = exported(testing::small_vanilla());
    set_key(path, key, value);
    const std::string named = key == "num_attention_heads" ? "head_dim" : key;
    EXPECT_ERROR(import_llama(path), InputError, "'" + named + "' of config.json");
  }
}

TEST_F(Llama, ToleratesTheBuffersOfOthersAndNothingElse) {
  const ModelConfig config = testing::small_vanilla(true);
  const fs::path path = exported(config);
  const Parameters parameters = testing::random_parameters(config, 3);
  const std::vector<float> inv_freq = {1.0F, 0.5F};
  std::vector<NamedTensor> tensors = named_tensors(parameters);
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {2}, inv_freq.data()});
  tensors.push_back({"lm_head.weight", tensors[0].shape, tensors[0].data});
  ASSERT_EQ(tensors[0].name, "model.embed_tokens.weight");
  write_safetensors(path / "model.safetensors", tensors, DType::f32, {});
  EXPECT_TRUE(testing::same_bits(import_llama(path).parameters, parameters));
  std::vector<float> other(tensors[0].data, tensors[0].data + config.vocab_size * config.dim);
  other[7] += 1.0F;
  tensors.back().data = other.data();
  write_safetensors(path / "model.safetensors", tensors, DType::f32, {});
  EXPECT_ERROR(import_llama(path), InputError, "lm_head.weight differs");
  tensors.back() = {"model.layers.0.self_attn.q_proj.bias", {2}, inv_freq.data()};
  write_safetensors(path / "model.safetensors", tensors, DType::f32, {});
  EXPECT_ERROR(import_llama(path), InputError, "'model.layers.0.self_attn.q_proj.bias' is unknown");
}

TEST_F(Llama, PhotonModelsAreRefused) {
  const ModelConfig config = testing::small_photon();
  EXPECT_ERROR(export_llama(folder_ / "x", config, testing::random_parameters(config, 3), DType::f32, {}), InputError,
               "cannot be exported to the Hugging Face form");
  save_weights_folder(folder_ / "w", config, testing::random_parameters(config, 3));
  EXPECT_FALSE(is_hugging_face_folder(folder_ / "w"));
}

}  // namespace
}  // namespace photon
