// Data files as the trainer and the evaluation read them: mapped, never copied whole (docs/data.md has the format).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/types.hpp"

namespace photon {

// One file that `photon prepare` wrote. Reading is const and may be done from several threads at once.
class TokenFile {
 public:
  // Errors: InputError when the file is missing, is no data file, was cut short, or has a newer format_version.
  static TokenFile open(const std::filesystem::path& path);
  ~TokenFile();
  TokenFile(TokenFile&& other) noexcept;
  TokenFile& operator=(TokenFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t num_tokens() const { return num_tokens_; }
  std::uint64_t num_bytes() const { return num_bytes_; }  // of the text
  std::uint64_t num_documents() const { return num_documents_; }
  std::int64_t vocab_size() const { return vocab_size_; }
  const std::string& tokenizer() const { return tokenizer_; }  // "byte", or the model's file name beside this file
  const std::string& tokenizer_hash() const { return tokenizer_hash_; }
  bool has_loss_mask() const { return mask_ != nullptr; }

  // Tokens begin .. begin+count-1. `mask` (may be null) gets 1 where a token counts in the loss and 0 elsewhere;
  // without a loss_mask all count. Errors: ContractError outside the file; Error for an id outside the vocabulary (a
  // damaged file).
  void read(std::uint64_t begin, std::uint64_t count, std::int32_t* tokens, std::uint8_t* mask = nullptr) const;

  // Token position at which each document starts, then the total: num_documents() + 1 values.
  std::vector<std::uint64_t> document_offsets() const;

  // Errors: InputError when a model with `model_vocab_size` ids cannot read these tokens.
  void check_vocabulary(std::int64_t model_vocab_size) const;

  // Reads everything and compares checksums and offsets. Errors: Error naming what is damaged.
  void verify() const;

 private:
  TokenFile() = default;
  void unmap();

  std::filesystem::path path_;
  std::uint64_t num_tokens_ = 0;
  std::uint64_t num_bytes_ = 0;
  std::uint64_t num_documents_ = 0;
  std::int64_t vocab_size_ = 0;
  std::string tokenizer_;
  std::string tokenizer_hash_;
  std::string checksum_;
  DType dtype_ = DType::u16;
  const char* map_ = nullptr;  // the whole file
  std::size_t map_bytes_ = 0;
  const char* tokens_ = nullptr;        // [num_tokens] of dtype_
  const std::uint8_t* mask_ = nullptr;  // [num_tokens]
};

}  // namespace photon
