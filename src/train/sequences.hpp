// Token sequences in memory for the model, and where the trainer takes them from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config/run_config.hpp"
#include "data/samples.hpp"
#include "model/model.hpp"

namespace photon {

// Some sequences of one length, with a loss mask where the data has one.
class Sequences {
 public:
  void resize(std::int64_t count, std::int64_t length, bool masked);
  std::int32_t* tokens(std::int64_t sequence) { return tokens_.data() + sequence * length_; }
  std::uint8_t* mask(std::int64_t sequence) { return masked_ ? mask_.data() + sequence * length_ : nullptr; }
  // Sequences first .. first + count - 1 as the model takes them: views of this object's memory.
  Batch part(std::int64_t first, std::int64_t count) const;
  std::int64_t count() const { return count_; }

 private:
  std::vector<std::int32_t> tokens_;  // [count, length]
  std::vector<std::uint8_t> mask_;    // [count, length], or empty
  std::int64_t count_ = 0;
  std::int64_t length_ = 0;
  bool masked_ = false;
};

// The training files in their order.
class TrainingData {
 public:
  // Errors: InputError for files that cannot be used (data/samples.hpp), and for a model that names another tokenizer.
  explicit TrainingData(const RunConfig& config);

  // Samples first .. first + count - 1 of the run.
  void load(std::int64_t first, std::int64_t count, Sequences& sequences) const;

  // What the model's config.json calls the tokenizer, and its file (empty for "byte").
  const std::string& tokenizer() const { return samples_.files().front().tokenizer(); }
  std::filesystem::path tokenizer_file() const;
  const std::string& tokenizer_hash() const { return samples_.files().front().tokenizer_hash(); }
  // What a vanilla model reads before the first token: the configuration's, else the tokenizer's bos, else its eos.
  std::int32_t start_token(const ModelConfig& model) const;

 private:
  Samples samples_;
  bool masked_ = false;
};

// Consecutive validation sequences that fit one tensor.
struct ValidationBatch {
  std::size_t file = 0;
  std::uint64_t begin = 0;  // first token in the file
  std::int64_t count = 0;   // sequences
  std::int64_t length = 0;  // tokens of each
};

// The validation files, cut into non-overlapping sequences; what remains of a file is a shorter one, as in `photon
// eval`.
class ValidationData {
 public:
  // Errors: InputError for files that cannot be used, or were made with another tokenizer than `tokenizer_hash`.
  ValidationData(const RunConfig& config, const std::string& tokenizer_hash);

  // The first `num_sequences` sequences (0: all) in batches of at most `batch_size`, in the order of the files.
  std::vector<ValidationBatch> batches(std::int64_t num_sequences, std::int64_t batch_size) const;
  void load(const ValidationBatch& batch, Sequences& sequences) const;
  double tokens_per_byte() const;  // of all files

 private:
  std::vector<TokenFile> files_;
  std::int64_t sequence_length_;
};

}  // namespace photon
