#include "tokenizer/tokenizer.hpp"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "support/error.hpp"
#include "tokenizer/segments.hpp"
#include "tokenizer/vocabulary.hpp"

namespace photon {
namespace {

using namespace std::string_literals;

std::vector<std::string> corpus() {
  const std::vector<std::string> words{"the",  "quick", "brown", "fox",  "jumps",  "over",  "lazy",   "dogs", "and",
                                       "some", "other", "words", "that", "repeat", "often", "enough", "to",   "merge"};
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < 400; ++i) {
    std::string line;
    for (std::size_t j = 0; j < 9; ++j) line += (j > 0 ? " " : "") + words[(i * 7 + j * (3 + i % 5)) % words.size()];
    lines.push_back(line + ", caf\xC3\xA9 " + std::to_string(i) + ".");
  }
  return lines;
}

std::string train_ours(std::int64_t size = 400) {
  const auto lines = corpus();
  std::size_t next = 0;
  return train_vocabulary(size, [&](std::string& line) {
    if (next == lines.size()) return false;
    line = lines[next++];
    return true;
  });
}

class Lines final : public sentencepiece::SentenceIterator {
 public:
  bool done() const override { return at_ == lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> lines_ = corpus();
  std::size_t at_ = 0;
};

// A model with the given options, as others train them.
std::string train_other(std::unordered_map<std::string, std::string> options) {
  options.insert({{"vocab_size", "400"}, {"minloglevel", "2"}, {"byte_fallback", "true"}, {"num_threads", "1"}});
  Lines lines;
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

const std::string& our_model() {
  static const std::string model = train_ours();
  return model;
}
// Like Llama's: nothing normalised, a space before the text.
const std::string& llama_like_model() {
  static const std::string model = train_other(
      {{"model_type", "bpe"}, {"normalization_rule_name", "identity"}, {"remove_extra_whitespaces", "false"}});
  return model;
}

std::vector<std::int32_t> library_ids(const std::string& model, std::string_view text) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.LoadFromSerializedProto(model).ok());
  std::vector<int> ids;
  EXPECT_TRUE(processor.Encode(text, &ids).ok());
  return {ids.begin(), ids.end()};
}

const std::vector<std::string>& hostile_texts() {
  static const std::vector<std::string> texts{
      "",
      "the quick brown fox",
      "  leading and trailing spaces   ",
      "lines\nof\n\n\ntext\n",
      "\n",
      "\r\nCRLF\r\n  kept\r\n",
      "\xF0\x9F\x98\x80 emoji \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB caf\xC3\xA9 \xE4\xB8\xAD\xE6\x96\x87",
      "tabs\tand NUL \0 bytes"s,
      "special text: <s> </s> <unk> <0x0A> <|endoftext|> [PAD]",
      "e\xCC\x81 is not \xC3\xA9, \xEF\xAC\x81 is a ligature",
  };
  return texts;
}

template <class F>
std::string message_of(F&& call) {
  try {
    call();
  } catch (const InputError& e) {
    return e.what();
  }
  ADD_FAILURE() << "no InputError";
  return "";
}

TEST(ByteTokenizer, EveryByteSurvives) {
  const auto tokenizer = make_tokenizer("byte");
  EXPECT_EQ(tokenizer->vocab_size(), 259);
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_EQ(tokenizer->eos(), 257);
  EXPECT_EQ(tokenizer->pad(), 258);
  EXPECT_EQ(tokenizer->name(), "byte");
  EXPECT_EQ(tokenizer->hash(), "7b24088204202b20");
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(255 - i);
  const auto ids = tokenizer->encode(all);
  ASSERT_EQ(ids.size(), 256U);
  EXPECT_EQ(ids.front(), 255);
  EXPECT_EQ(tokenizer->decode(ids), all);
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{256, 'a', 258, 'b', 257}), "ab");
}

TEST(ByteTokenizer, RefusesIdsItDoesNotHave) {
  const auto tokenizer = make_tokenizer("byte");
  for (const std::int32_t id : {-1, 259, 70000}) {
    const std::string message = message_of([&] { tokenizer->decode(std::vector<std::int32_t>{id}); });
    EXPECT_NE(message.find("token id " + std::to_string(id)), std::string::npos) << message;
    EXPECT_NE(message.find("259 ids"), std::string::npos) << message;
  }
}

TEST(SentencePiece, OurVocabularyKeepsEveryUtf8Text) {
  const auto tokenizer = make_sentencepiece_tokenizer(our_model(), "tokenizer.model");
  EXPECT_EQ(tokenizer->vocab_size(), 400);
  EXPECT_EQ(tokenizer->name(), tokenizer_file_name);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_EQ(tokenizer->pad(), -1);
  for (const std::string& text : hostile_texts()) {
    const auto ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids), text);
    EXPECT_EQ(tokenizer->decode_continuation(ids), text);
    for (const auto id : ids) EXPECT_GT(id, 2) << "special ids never come from text: " << text;
  }
  EXPECT_LT(tokenizer->encode("the quick brown fox jumps").size(), 10U);
}

TEST(SentencePiece, InvalidUtf8BecomesReplacementCharacters) {
  const auto tokenizer = make_sentencepiece_tokenizer(our_model(), "tokenizer.model");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("ab\xFF cd")), "ab\xEF\xBF\xBD cd");
}

TEST(SentencePiece, SameIdsAsTheLibraryOnWholeTexts) {
  for (const std::string& model : {our_model(), llama_like_model()}) {
    const auto tokenizer = make_sentencepiece_tokenizer(model, "m.model");
    for (const std::string& text : hostile_texts()) {
      EXPECT_EQ(tokenizer->encode(text), library_ids(model, text)) << text;
    }
  }
}

TEST(SentencePiece, ASpaceIsPutBeforeTheTextOnlyOnceAndDroppedAgain) {
  const auto tokenizer = make_sentencepiece_tokenizer(llama_like_model(), "m.model");
  for (const std::string& text : hostile_texts()) EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  const auto ids = tokenizer->encode("the fox");
  EXPECT_EQ(tokenizer->decode_continuation(ids), " the fox");
}

TEST(SentencePiece, ModelsThatDropLineEndsStillSeparateLines) {
  const std::string model =
      train_other({{"model_type", "unigram"}, {"hard_vocab_limit", "false"}, {"vocab_size", "330"}});
  const auto tokenizer = make_sentencepiece_tokenizer(model, "m.model");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the quick\nbrown fox\n\njumps")), "the quick brown fox jumps");
  EXPECT_EQ(tokenizer->encode("the quick\nbrown fox"), library_ids(model, "the quick\nbrown fox"));
}

TEST(SentencePiece, TokenisingInPiecesGivesTheSameIds) {
  std::string text;
  for (int i = 0; i < 60; ++i)
    text += hostile_texts()[static_cast<std::size_t>(i) % hostile_texts().size()] + (i % 3 == 0 ? "\n" : "");
  text += std::string(max_segment_bytes + 100, 'z') + "\n tail";
  for (const std::string& model : {our_model(), llama_like_model()}) {
    const auto tokenizer = make_sentencepiece_tokenizer(model, "m.model");
    const auto whole = tokenizer->encode(text);
    for (const std::size_t step : {61U, 1000U, 50000U}) {
      std::vector<std::int32_t> ids;
      std::size_t given = 0;
      for (std::size_t seen = 0; seen < text.size();) {
        seen = std::min(text.size(), seen + step);
        const std::string_view rest = std::string_view(text).substr(given, seen - given);
        const std::size_t cut = seen == text.size() ? rest.size() : last_segment_boundary(rest);
        tokenizer->append(rest.substr(0, cut), given == 0, ids);
        given += cut;
      }
      EXPECT_EQ(ids, whole) << step;
    }
  }
}

TEST(SentencePiece, EncodesFromSeveralThreads) {
  const auto tokenizer = make_sentencepiece_tokenizer(our_model(), "m.model");
  const std::string text = hostile_texts()[6] + "\n" + hostile_texts()[3];
  const auto expected = tokenizer->encode(text);
  std::vector<int> equal(3, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < equal.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) equal[t] += tokenizer->encode(text) == expected ? 1 : 0;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(3, 50));
}

TEST(SentencePiece, TrainingIsDeterministicAndChecksItsSize) {
  EXPECT_EQ(train_ours(), our_model());
  EXPECT_NE(message_of([] { train_ours(100); }).find("100 ids"), std::string::npos);
  EXPECT_NE(message_of([] { train_ours(50000); }).find("50000 ids on 400 lines"), std::string::npos);
  EXPECT_NE(message_of([] { train_vocabulary(400, [](std::string&) { return false; }); }).find("no text"),
            std::string::npos);
}

TEST(MakeTokenizer, HashNamesTheModel) {
  const auto a = make_sentencepiece_tokenizer(our_model(), "a.model");
  const auto b = make_sentencepiece_tokenizer(llama_like_model(), "b.model");
  EXPECT_EQ(a->hash().size(), 16U);
  EXPECT_NE(a->hash(), b->hash());
  EXPECT_EQ(a->hash(), make_sentencepiece_tokenizer(our_model(), "c.model")->hash());
}

TEST(MakeTokenizer, ReadsFilesBesideAFolderAndRefusesOthersByName) {
  const auto folder = std::filesystem::temp_directory_path() / ("photon-tokenizer-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "tokenizer.model", std::ios::binary) << our_model();
  std::ofstream(folder / "bad.model") << "this is no model";
  std::ofstream(folder / "empty.model");
  std::ofstream(folder / "tokenizer.json") << "{}";
  EXPECT_EQ(make_tokenizer("tokenizer.model", folder)->vocab_size(), 400);
  EXPECT_EQ(make_tokenizer("byte", folder)->vocab_size(), 259);
  const auto message = [&](const std::string& name) { return message_of([&] { make_tokenizer(name, folder); }); };
  EXPECT_NE(message("missing.model").find("missing.model (no such file"), std::string::npos)
      << message("missing.model");
  EXPECT_NE(message("bad.model").find("not a SentencePiece model"), std::string::npos);
  EXPECT_NE(message("empty.model").find("it is empty"), std::string::npos);
  EXPECT_NE(message("tokenizer.json").find("tokenizer.json files yet"), std::string::npos);
  EXPECT_NE(message(".").find("it is a folder"), std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST(MakeTokenizer, RefusesModelsWithoutEosOrWithSpacesBehind) {
  const std::string no_eos = train_other({{"model_type", "bpe"}, {"eos_id", "-1"}});
  EXPECT_NE(message_of([&] { make_sentencepiece_tokenizer(no_eos, "m.model"); }).find("no end-of-sentence id"),
            std::string::npos);
  const std::string suffix = train_other({{"model_type", "bpe"}, {"treat_whitespace_as_suffix", "true"}});
  EXPECT_NE(message_of([&] { make_sentencepiece_tokenizer(suffix, "m.model"); }).find("treat_whitespace_as_suffix"),
            std::string::npos);
}

TEST(Detokenizer, NeverGivesHalfACharacter) {
  for (const bool bytes : {true, false}) {
    const auto tokenizer = bytes ? make_byte_tokenizer() : make_sentencepiece_tokenizer(our_model(), "m.model");
    const std::string text =
        "a\xF0\x9F\x98\x80"
        "b caf\xC3\xA9 the fox";
    Detokenizer detokenizer(*tokenizer);
    std::string joined;
    for (const auto id : tokenizer->encode(text)) {
      const std::string part = detokenizer.push(id);
      EXPECT_TRUE(part.empty() || (static_cast<unsigned char>(part[0]) & 0xC0U) != 0x80U);
      joined += part;
    }
    EXPECT_EQ(joined + detokenizer.finish(), text);
  }
  const auto tokenizer = make_byte_tokenizer();
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.push(0xE2), "");
  EXPECT_EQ(detokenizer.push('x'), "\xE2x");  // it could not become a character any more
  EXPECT_EQ(detokenizer.push(0xF0), "");
  EXPECT_EQ(detokenizer.finish(), "\xF0");
  EXPECT_EQ(detokenizer.finish(), "");
}

}  // namespace
}  // namespace photon
