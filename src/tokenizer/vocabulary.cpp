#include "tokenizer/vocabulary.hpp"

#include <sentencepiece_trainer.h>

#include <algorithm>

#include "support/error.hpp"
#include "tokenizer/utf8.hpp"

namespace photon {
namespace {

// SentencePiece leaves out sentences longer than max_sentence_length, so longer lines are cut here.
constexpr std::size_t max_sentence_bytes = 4000;

class LineIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const std::function<bool(std::string&)>& next_line) : next_line_(next_line) { Next(); }

  bool done() const override { return done_; }
  const std::string& value() const override { return value_; }
  sentencepiece::util::Status status() const override { return {}; }
  std::int64_t num_lines() const { return num_lines_; }

  void Next() override {
    while (rest_.empty()) {
      if (!next_line_(rest_)) {
        done_ = true;
        return;
      }
    }
    const std::size_t size = rest_.size() <= max_sentence_bytes ? rest_.size() : utf8_floor(rest_, max_sentence_bytes);
    value_ = rest_.substr(0, size);
    rest_.erase(0, size);
    ++num_lines_;
  }

 private:
  const std::function<bool(std::string&)>& next_line_;
  std::string rest_;
  std::string value_;
  bool done_ = false;
  std::int64_t num_lines_ = 0;
};

// SentencePiece's reason without the line of its source and the condition there: "file.cc(580) [condition] reason".
std::string reason_of(const sentencepiece::util::Status& status) {
  const std::string text = status.error_message();
  const auto end = text.rfind("] ");
  return end == std::string::npos || end + 2 == text.size() ? text : text.substr(end + 2);
}

}  // namespace

std::string train_vocabulary(std::int64_t size, const std::function<bool(std::string&)>& next_line) {
  constexpr std::int64_t smallest = 256 + 3 + 1;
  if (size < smallest || size > 1'000'000) {
    throw InputError(fmt::format("cannot train a vocabulary of {} ids", size),
                     fmt::format("it has to hold 256 bytes, 3 special ids and some pieces, and at most a million"),
                     fmt::format("ask for {} or more, e.g. 4096", smallest));
  }
  LineIterator lines(next_line);
  if (lines.done()) throw InputError("cannot train a vocabulary", "the input has no text", "");
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train({{"model_type", "bpe"},
                                                                  {"vocab_size", std::to_string(size)},
                                                                  {"byte_fallback", "true"},
                                                                  {"character_coverage", "0.9995"},
                                                                  {"normalization_rule_name", "identity"},
                                                                  {"add_dummy_prefix", "false"},
                                                                  {"remove_extra_whitespaces", "false"},
                                                                  {"allow_whitespace_only_pieces", "true"},
                                                                  {"max_sentence_length", "4192"},
                                                                  {"num_threads", "1"},
                                                                  {"minloglevel", "2"}},
                                                                 &lines, &model);
  if (!status.ok()) {
    throw InputError(fmt::format("cannot train a vocabulary of {} ids on {} lines", size, lines.num_lines()),
                     reason_of(status), "ask for another size, or give more text");
  }
  return model;
}

}  // namespace photon
