#include "tokenizer/tokenizer.hpp"

#include <fstream>
#include <iterator>
#include <utility>

#include "support/error.hpp"
#include "support/random.hpp"
#include "tokenizer/utf8.hpp"

namespace photon {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (int byte = 0; byte < 256; ++byte) bytes_.emplace_back(1, static_cast<char>(byte));
    bytes_.resize(259);
    bos_ = 256;
    eos_ = 257;
    pad_ = 258;
    name_ = "byte";
    hash_ = fmt::format("{:016x}", hash_name("photon byte tokenizer"));
  }

  void append(std::string_view text, bool, std::vector<std::int32_t>& ids) const override {
    const std::size_t before = ids.size();
    ids.resize(before + text.size());  // grows by factors, as an exact reserve() line by line would not
    for (std::size_t i = 0; i < text.size(); ++i) ids[before + i] = static_cast<unsigned char>(text[i]);
  }
};

std::string read_model(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    throw InputError(fmt::format("cannot read the tokenizer {}", file.string()), "no such file, or not readable",
                     "name a SentencePiece .model file, or use 'byte'");
  }
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  append(text, true, ids);
  return ids;
}

std::string_view Tokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) {
    throw InputError(fmt::format("token id {} cannot be decoded", id),
                     fmt::format("the vocabulary of '{}' has {} ids, from 0", name_, vocab_size()),
                     "check that the ids belong to this tokenizer");
  }
  return bytes_[static_cast<std::size_t>(id)];
}

std::string Tokenizer::decode_continuation(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += token_bytes(id);
  return text;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text = decode_continuation(ids);
  if (drops_first_space_ && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& spec, const std::filesystem::path& folder) {
  if (spec == "byte") return make_byte_tokenizer();
  if (spec.empty()) throw InputError("no tokenizer is named", "", "use 'byte' or a SentencePiece .model file");
  const std::filesystem::path file = folder.empty() ? std::filesystem::path(spec) : folder / spec;
  if (file.extension() == ".json") {
    throw InputError(fmt::format("{} cannot be used as a tokenizer", file.string()),
                     "photon does not read Hugging Face tokenizer.json files yet",
                     "use the SentencePiece .model file of the same tokenizer, or 'byte'");
  }
  if (std::filesystem::is_directory(file)) {
    throw InputError(fmt::format("{} cannot be used as a tokenizer", file.string()), "it is a folder",
                     "name the SentencePiece .model file in it");
  }
  return make_sentencepiece_tokenizer(read_model(file), file);
}

std::string Detokenizer::push(std::int32_t id) {
  pending_ += tokenizer_->token_bytes(id);
  const std::size_t held = utf8_incomplete_suffix(pending_);
  std::string text = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, pending_.size() - held);
  return text;
}

std::string Detokenizer::finish() {
  return std::exchange(pending_, {});
}

}  // namespace photon
