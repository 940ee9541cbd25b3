// A run small enough to train within a test: a two-level byte model, some text, and a model that can be interrupted.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "config/run_config.hpp"
#include "data/dataset.hpp"
#include "data/prepare.hpp"
#include "storage/hdf5.hpp"
#include "support/random.hpp"
#include "testing/temporary.hpp"
#include "testing/tiny_model.hpp"

namespace photon::testing {

// Text with some structure, so that a model learns: words of a small vocabulary drawn by seed.
inline std::string tiny_text(int num_words) {
  static const std::vector<std::string> words{"light", "falls", "on", "the", "grey", "stone", "and", "water", "sings"};
  std::string text;
  for (int i = 0; i < num_words; ++i) {
    text += words[random_bits(1, 2, static_cast<std::uint64_t>(i)) % words.size()];
    text += i % 12 == 11 ? "\n" : " ";
  }
  return text;
}

// A folder with train.h5 and val.h5, and a configuration that names them.
class TinyData {
 public:
  TinyData() {
    write_bytes(folder_ / "text.txt", tiny_text(600));
    PrepareOptions options;
    options.files = {folder_ / "text.txt"};
    options.output = folder_ / "data";
    options.tokenizer = "byte";
    options.val_fraction = 0.1;
    options.threads = 1;
    prepare(options);
  }

  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }

  std::string yaml() const {
    return std::string(tiny_model_yaml) +
           "data:\n"
           "  train: " +
           (folder_ / "data" / "train.h5").string() +
           "\n"
           "  val: " +
           (folder_ / "data" / "val.h5").string() +
           "\n"
           "train: {steps: 6, batch_size: 6, sequence_length: 16, learning_rate: 0.01, warmup_steps: 2, "
           "checkpoint_every: 2,\n"
           "        eval_every: 3, seed: 7}\n";
  }
  // The training data with a loss mask: two of three tokens count, and none of the first 16.
  std::filesystem::path masked() const {
    const std::filesystem::path path = folder_ / "masked.h5";
    const TokenFile plain = TokenFile::open(folder_ / "data" / "train.h5");
    const auto count = static_cast<std::int64_t>(plain.num_tokens());
    std::vector<std::int32_t> tokens(plain.num_tokens());
    plain.read(0, plain.num_tokens(), tokens.data());
    const std::vector<std::uint16_t> narrow(tokens.begin(), tokens.end());
    std::vector<std::uint8_t> mask(tokens.size());
    for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = i >= 16 && i % 3 != 1;
    const std::vector<std::uint64_t> offsets = plain.document_offsets();
    Hdf5File file = Hdf5File::create(path);
    file.write("/tokens", host_view(narrow.data(), {count}));
    file.write("/loss_mask", host_view(mask.data(), {count}));
    file.write("/document_offsets", host_view(offsets.data(), {static_cast<std::int64_t>(offsets.size())}));
    file.set_attribute("format_version", std::int64_t{1});
    file.set_attribute("tokenizer", plain.tokenizer());
    file.set_attribute("tokenizer_hash", plain.tokenizer_hash());
    file.set_attribute("vocab_size", plain.vocab_size());
    file.set_attribute("num_tokens", count);
    file.set_attribute("num_bytes", static_cast<std::int64_t>(plain.num_bytes()));
    file.close();
    return path;
  }
  RunConfig config(const std::vector<std::string>& overrides = {}) const {
    return parse_run_config(yaml(), "tiny.yaml", overrides);
  }

 private:
  TemporaryFolder folder_;
};

// The lines of metrics.jsonl without the times, which differ from run to run.
inline std::vector<nlohmann::json> metrics_of(const std::filesystem::path& run) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    nlohmann::json object = nlohmann::json::parse(line);
    for (const char* key : {"seconds", "tokens_per_second", "val_seconds", "mfu", "ranks", "slowest_rank"})
      object.erase(key);
    lines.push_back(std::move(object));
  }
  return lines;
}

inline std::string weights_of(const std::filesystem::path& run) {
  return read_bytes(run / "model" / "model.safetensors");
}

// Both the metrics and the weights, byte for byte.
inline void expect_same_run(const std::filesystem::path& a, const std::filesystem::path& b) {
  EXPECT_EQ(metrics_of(a), metrics_of(b));
  ASSERT_FALSE(weights_of(a).empty());
  EXPECT_TRUE(weights_of(a) == weights_of(b)) << "the weights differ";
}

}  // namespace photon::testing
