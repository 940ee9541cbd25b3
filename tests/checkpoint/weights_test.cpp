#include "checkpoint/weights.hpp"

#include <gtest/gtest.h>

#include "fixtures.hpp"
#include "support/error.hpp"
#include "tensor/half.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {
namespace fs = std::filesystem;
using testing::run_with_fault;
using testing::TemporaryFolder;

void replace_text(const fs::path& path, const std::string& from, const std::string& to) {
  std::string text = testing::read_bytes(path);
  const auto at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  testing::write_bytes(path, text.replace(at, from.size(), to));
}

TEST(Weights, ComeBackBitForBit) {
  for (const ModelConfig& config : {testing::small_photon(), testing::small_vanilla(), testing::small_vanilla(true)}) {
    const TemporaryFolder folder;
    const Parameters parameters = testing::random_parameters(config, 5);
    save_weights_folder(folder / "w", config, parameters);
    EXPECT_EQ(testing::names_in(folder / "w"), (std::vector<std::string>{"config.json", "model.safetensors"}));
    const LoadedModel back = load_weights(folder / "w");
    EXPECT_TRUE(back.config == config);
    EXPECT_TRUE(testing::same_bits(back.parameters, parameters));
  }
}

TEST(Weights, ComeBackFromShardsAndFromBf16) {
  const TemporaryFolder folder;
  const ModelConfig config = testing::small_photon();
  const Parameters parameters = testing::random_parameters(config, 5);
  save_weights_folder(folder / "shards", config, parameters, DType::f32, {}, 2000);
  EXPECT_TRUE(fs::exists(folder / "shards" / "model.safetensors.index.json"));
  EXPECT_TRUE(testing::same_bits(load_weights(folder / "shards").parameters, parameters));
  save_weights_folder(folder / "half", config, parameters, DType::bf16);
  const LoadedModel half = load_weights(folder / "half");
  const float* const a = half.parameters.flat().host<float>();
  const float* const b = parameters.flat().host<float>();
  for (std::int64_t i = 0; i < parameters.flat().numel(); ++i) ASSERT_EQ(a[i], to_float(to_bfloat16(b[i]))) << i;
}

TEST(Weights, TheTokenizersFileTravelsAlong) {
  const TemporaryFolder folder;
  ModelConfig config = testing::small_photon();
  config.tokenizer = "tokenizer.model";
  const Parameters parameters = testing::random_parameters(config, 5);
  EXPECT_ERROR(save_weights_folder(folder / "w", config, parameters, DType::f32, folder / "none"), InputError,
               "none' is missing");
  testing::write_bytes(folder / "t", "pieces");
  save_weights_folder(folder / "w", config, parameters, DType::f32, folder / "t");
  EXPECT_EQ(testing::read_bytes(folder / "w" / "tokenizer.model"), "pieces");
  // Onto itself, its own tokenizer being the source.
  const LoadedModel model = load_weights(folder / "w");
  save_weights_folder(folder / "w", model.config, model.parameters, DType::bf16,
                      tokenizer_path(model.config, model.folder));
  EXPECT_EQ(testing::read_bytes(folder / "w" / "tokenizer.model"), "pieces");
  fs::remove(folder / "w" / "tokenizer.model");
  EXPECT_ERROR(tokenizer_path(config, folder / "w"), InputError, "tokenizer.model is missing");
  config.tokenizer = "../t";
  EXPECT_ERROR(tokenizer_path(config, folder / "w"), InputError, "plain file name");
}

TEST(Weights, KilledAnywhereHoldTheOldOrTheNew) {
  const ModelConfig config = testing::small_photon();
  const Parameters old_values = testing::random_parameters(config, 1);
  const Parameters new_values = testing::random_parameters(config, 2);
  for (const std::string point :
       {"weights.begin", "weights.config.rename", "weights.data", "weights.rename", "weights.done"}) {
    const TemporaryFolder folder;
    save_weights_folder(folder / "w", config, old_values);
    run_with_fault(point, [&] { save_weights_folder(folder / "w", config, new_values); });
    EXPECT_TRUE(
        testing::same_bits(load_weights(folder / "w").parameters, point == "weights.done" ? new_values : old_values))
        << point;
    save_weights_folder(folder / "w", config, new_values);
    EXPECT_TRUE(testing::same_bits(load_weights(folder / "w").parameters, new_values));
    EXPECT_EQ(testing::names_in(folder.path()), (std::vector<std::string>{"w"}));
  }
}

TEST(Weights, AFullDiskLeavesTheOldOnes) {
  const TemporaryFolder folder;
  const ModelConfig config = testing::small_photon();
  save_weights_folder(folder / "w", config, testing::random_parameters(config, 1));
  const testing::Environment fault("PHOTON_FAULT", "enospc@weights.data");
  EXPECT_ERROR(save_weights_folder(folder / "w", config, testing::random_parameters(config, 2)), Error,
               "No space left");
  EXPECT_TRUE(testing::same_bits(load_weights(folder / "w").parameters, testing::random_parameters(config, 1)));
  EXPECT_EQ(testing::names_in(folder.path()), (std::vector<std::string>{"w"}));
}

TEST(Weights, NeverReplaceWhatIsNoWeightsFolder) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "home");
  testing::write_bytes(folder / "home" / "thesis", "x");
  const ModelConfig config = testing::small_photon();
  EXPECT_ERROR(save_weights_folder(folder / "home", config, testing::random_parameters(config, 1)), InputError,
               "it exists and is no weights folder");
  EXPECT_EQ(testing::read_bytes(folder / "home" / "thesis"), "x");
}

TEST(Weights, NameTheTensorThatIsWrong) {
  const ModelConfig config = testing::small_photon();
  const Parameters parameters = testing::random_parameters(config, 5);
  const TemporaryFolder folder;
  const fs::path w = folder / "w";
  const auto rewrite = [&](const auto& change) {
    fs::remove_all(w);
    save_weights_folder(w, config, parameters);
    std::vector<NamedTensor> tensors = named_tensors(parameters);
    change(tensors);
    write_safetensors(w / "model.safetensors", tensors, DType::f32, {});
  };
  rewrite([](auto& t) { t.pop_back(); });
  EXPECT_ERROR(load_weights(w), InputError, "tensor 'lm_head.weight' is missing");
  rewrite([](auto& t) { t[0].shape = {8, 11}; });
  EXPECT_ERROR(load_weights(w), InputError, "[8, 11] is found, [11, 8] is needed");
  rewrite([](auto& t) { t.push_back({"start_latents", {2}, t[0].data}); });
  EXPECT_ERROR(load_weights(w), InputError, "the nearest is 'start_latent'");
  rewrite([](auto&) {});
  testing::flip_byte(w / "model.safetensors", -3);
  EXPECT_ERROR(load_weights(w), InputError, "damaged");
}

TEST(Weights, DamageIsNoticed) {
  const TemporaryFolder folder;
  const ModelConfig config = testing::small_photon();
  save_weights_folder(folder / "w", config, testing::random_parameters(config, 5));
  testing::flip_byte(folder / "w" / "model.safetensors", -3);
  EXPECT_ERROR(load_weights(folder / "w"), InputError, "'lm_head.weight'");
}

TEST(Weights, VerifyFindsEveryKindOfDamage) {
  const TemporaryFolder folder;
  const fs::path w = folder / "w";
  ModelConfig config = testing::small_photon();
  config.tokenizer = "tokenizer.model";
  testing::write_bytes(folder / "t", "pieces");
  const auto rewrite = [&] {
    fs::remove_all(w);
    save_weights_folder(w, config, testing::random_parameters(config, 5), DType::f32, folder / "t");
    EXPECT_TRUE(verify_weights(w).empty());
  };
  const auto expect_problem = [&](const std::string& part) {
    const std::vector<std::string> problems = verify_weights(w);
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_NE(problems[0].find(part), std::string::npos) << problems[0];
  };
  rewrite();
  testing::flip_byte(w / "model.safetensors", -1);
  expect_problem("'lm_head.weight'");
  rewrite();
  testing::flip_byte(w / "model.safetensors", 0);
  expect_problem("model.safetensors");
  rewrite();
  fs::resize_file(w / "model.safetensors", fs::file_size(w / "model.safetensors") - 4);
  expect_problem("beyond the end of the file");
  rewrite();
  testing::flip_byte(w / "tokenizer.model", 1);
  expect_problem("tokenizer.model is not the file");
  rewrite();
  replace_text(w / "config.json", "5000.0", "6000.0");
  expect_problem("config.json is not the file");
}

TEST(Weights, TheHashIsThatOfTheValues) {
  const TemporaryFolder folder;
  const ModelConfig config = testing::small_photon();
  const Parameters parameters = testing::random_parameters(config, 5);
  save_weights_folder(folder / "w", config, parameters, DType::f32, {}, 2000);
  EXPECT_EQ(weights_hash(load_weights(folder / "w").parameters), weights_hash(parameters));
  parameters.view("start_latent").host<float>()[3] += 1.0F;
  EXPECT_NE(weights_hash(load_weights(folder / "w").parameters), weights_hash(parameters));
}

TEST(Weights, NewerFormatsAreRefusedByName) {
  const TemporaryFolder folder;
  const ModelConfig config = testing::small_photon();
  save_weights_folder(folder / "w", config, testing::random_parameters(config, 5));
  replace_text(folder / "w" / "config.json", "\"format_version\": 1", "\"format_version\": 99");
  EXPECT_ERROR(load_weights(folder / "w"), InputError, "format_version");
}

}  // namespace
}  // namespace photon
