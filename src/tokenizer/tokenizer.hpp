// Tokenizers: text to ids and back. Whatever the model behind it, a text is encoded segment by segment
// (tokenizer/segments.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace photon {

// The name under which a SentencePiece model lies in a data or weights folder.
inline constexpr std::string_view tokenizer_file_name = "tokenizer.model";

// All functions are const and may be called from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // The ids of a whole text; no bos or eos is added.
  std::vector<std::int32_t> encode(std::string_view text) const;
  // Appends the ids of `text`, whole segments of a longer text: its first ones when `at_start`.
  virtual void append(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const = 0;

  // The text of ids that stand at the start of a text, and of ids that continue one. They differ for SentencePiece
  // models that put a space before every text: only the first drops it again. Ids without a text (bos, eos, pad) give
  // "". Errors: InputError for an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;
  std::string decode_continuation(std::span<const std::int32_t> ids) const;

  // The bytes one id stands for inside a text. Errors: InputError for an id outside the vocabulary.
  std::string_view token_bytes(std::int32_t id) const;

  std::int64_t vocab_size() const { return static_cast<std::int64_t>(bytes_.size()); }
  std::int32_t eos() const { return eos_; }
  std::int32_t bos() const { return bos_; }  // -1: none
  std::int32_t pad() const { return pad_; }  // -1: none
  // What data files and config.json call it: "byte", or tokenizer_file_name for a SentencePiece model.
  const std::string& name() const { return name_; }
  // 16 hexadecimal digits: a 64-bit hash of the model file's bytes; fixed for "byte".
  const std::string& hash() const { return hash_; }
  // The file it was read from; empty for "byte".
  const std::filesystem::path& file() const { return file_; }

 protected:
  std::vector<std::string> bytes_;  // [vocab_size]
  bool drops_first_space_ = false;
  std::int32_t eos_ = -1;
  std::int32_t bos_ = -1;
  std::int32_t pad_ = -1;
  std::string name_;
  std::string hash_;
  std::filesystem::path file_;
};

// "byte", or the path of a SentencePiece .model file; a relative path is looked for in `folder`. Errors: InputError for
// a missing or damaged file, a model without eos, a kind of tokenizer that photon does not read.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& spec, const std::filesystem::path& folder = {});

// 256 bytes, then bos 256, eos 257, pad 258. Any bytes survive it unchanged.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

// From a SentencePiece model's bytes; `file` is where they came from.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& model, const std::filesystem::path& file);

// Turns ids into text one at a time without ever giving half a UTF-8 character, e.g. to look for stop strings.
class Detokenizer {
 public:
  // `tokenizer` must outlive this. The ids continue a text.
  explicit Detokenizer(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  // The text that id completes, possibly "".
  std::string push(std::int32_t id);
  // The bytes still held back, which are no complete character.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

}  // namespace photon
