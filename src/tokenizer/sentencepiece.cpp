// SentencePiece models, through the library. What the library does to a whole text is done here to each segment of it:
// where a model puts a space before the text, only the first segment gets one.
#include <sentencepiece_processor.h>

#include <cstdio>

#include "support/error.hpp"
#include "support/log.hpp"
#include "support/random.hpp"
#include "tokenizer/segments.hpp"
#include "tokenizer/tokenizer.hpp"

namespace photon {
namespace {

using Processor = sentencepiece::SentencePieceProcessor;

constexpr std::string_view space_symbol = "\xE2\x96\x81";  // U+2581, which stands for a space inside pieces

void load(Processor& processor, const std::string& model, const std::filesystem::path& file) {
  const auto status = model.empty()
                          ? sentencepiece::util::Status(sentencepiece::util::StatusCode::kDataLoss, "it is empty")
                          : processor.LoadFromSerializedProto(model);
  if (status.ok()) return;
  throw InputError(fmt::format("{} cannot be used as a tokenizer", file.string()),
                   fmt::format("not a SentencePiece model: {}", status.error_message()),
                   "name a .model file that SentencePiece wrote, or use 'byte'");
}

// The pieces of a text, joined; bytes that have no piece of their own are written as the characters they are.
std::string pieces_of(const Processor& processor, std::string_view text) {
  std::vector<std::string> pieces;
  std::string joined;
  if (!processor.Encode(text, &pieces).ok()) return joined;
  for (const std::string& piece : pieces) {
    unsigned byte = 0;
    if (processor.IsByte(processor.PieceToId(piece)) && std::sscanf(piece.c_str(), "<0x%02X>", &byte) == 1) {
      joined += static_cast<char>(byte);
    } else {
      joined += piece;
    }
  }
  return joined;
}

std::string text_of(const Processor& processor, int id) {
  if (processor.IsControl(id) || processor.IsUnused(id)) return "";
  if (processor.IsUnknown(id)) {
    std::string text;
    return processor.Decode(std::vector<int>{id}, &text).ok() ? text : "";
  }
  const std::string piece = processor.IdToPiece(id);
  unsigned byte = 0;
  if (processor.IsByte(id) && std::sscanf(piece.c_str(), "<0x%02X>", &byte) == 1) {
    return std::string(1, static_cast<char>(byte));
  }
  std::string text;
  for (std::size_t at = 0; at < piece.size();) {
    const bool is_space = std::string_view(piece).substr(at).starts_with(space_symbol);
    text += is_space ? ' ' : piece[at];
    at += is_space ? space_symbol.size() : 1;
  }
  return text;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& model, const std::filesystem::path& file) {
    load(first_, model, file);
    const std::string probe = pieces_of(first_, "a");
    if (probe.ends_with(space_symbol)) {
      throw InputError(fmt::format("{} cannot be used as a tokenizer", file.string()),
                       "it was trained with treat_whitespace_as_suffix, which photon does not compute",
                       "use a model without that option");
    }
    if (first_.eos_id() < 0) {
      throw InputError(fmt::format("{} cannot be used as a tokenizer", file.string()),
                       "its vocabulary has no end-of-sentence id, which has to follow every document",
                       "train the model with an eos_id");
    }
    drops_first_space_ = probe.starts_with(space_symbol);
    bool keeps_line_ends = pieces_of(first_, "a\na").find('\n') != std::string::npos;
    if (!keeps_line_ends) {
      log_warning("the tokenizer {} does not keep line ends: text decoded from its ids has none", file.string());
    }
    // A model that drops line ends separates lines by the space it puts before each text, so every line gets one.
    const bool only_first = drops_first_space_ && keeps_line_ends;
    // Messages of protocol buffers are merged where they are concatenated: field 3 (the normalizer) with its field 3
    // (add_dummy_prefix) false.
    load(rest_, only_first ? model + std::string("\x1a\x02\x18\x00", 4) : model, file);

    const int num_pieces = first_.GetPieceSize();
    bytes_.reserve(static_cast<std::size_t>(num_pieces));
    for (int id = 0; id < num_pieces; ++id) bytes_.push_back(text_of(first_, id));
    eos_ = first_.eos_id();
    bos_ = first_.bos_id();
    pad_ = first_.pad_id();
    name_ = tokenizer_file_name;
    hash_ = fmt::format("{:016x}", hash_name(model));
    file_ = file;
  }

  void append(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const override {
    std::vector<int> segment_ids;
    while (!text.empty()) {
      const std::string_view segment = text.substr(0, first_segment(text));
      const auto status = (at_start ? first_ : rest_).Encode(segment, &segment_ids);
      if (!status.ok()) {
        throw Error(fmt::format("the tokenizer {} failed", file_.string()), status.error_message(), "");
      }
      ids.insert(ids.end(), segment_ids.begin(), segment_ids.end());
      text.remove_prefix(segment.size());
      at_start = false;
    }
  }

 private:
  Processor first_;  // as the model says: for the start of a text
  Processor rest_;   // for what follows
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& model, const std::filesystem::path& file) {
  return std::make_unique<SentencePieceTokenizer>(model, file);
}

}  // namespace photon
