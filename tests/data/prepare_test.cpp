#include "data/prepare.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "data/split.hpp"
#include "data/vocabulary_text.hpp"
#include "data_fixture.hpp"
#include "storage/hdf5.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {
namespace {

using namespace std::string_literals;
using testing::byte_options;
using testing::names_in;
using testing::read_bytes;
using testing::TemporaryFolder;
using testing::write_bytes;
using Strings = std::vector<std::string>;

std::string numbered_documents(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += "document " + std::to_string(i) + "\n";
    text += std::string(static_cast<std::size_t>(i % 17), 'x') + " \xF0\x9F\x98\x80\xFF \r\n<|endoftext|>\n";
  }
  return text;
}

class PrepareTest : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& name, const std::string& bytes) {
    write_bytes(folder_ / name, bytes);
    return folder_ / name;
  }
  TemporaryFolder folder_;
  std::filesystem::path out_ = folder_ / "out";
  std::unique_ptr<Tokenizer> bytes_ = make_byte_tokenizer();
};

TEST_F(PrepareTest, WritesTheFormatThatTheDocumentationStates) {
  const std::string text = "caf\xC3\xA9 \xFF\0\r\n"s;
  const auto input = file("a.txt", text + "\n<|endoftext|>\nsecond");
  const PrepareSummary summary = prepare(byte_options(out_, {input}));
  EXPECT_EQ(names_in(out_), Strings{"train.h5"});

  const Hdf5File h5 = Hdf5File::open(out_ / "train.h5");
  EXPECT_EQ(h5.attribute_int("format_version"), 1);
  EXPECT_EQ(h5.attribute_text("tokenizer"), "byte");
  EXPECT_EQ(h5.attribute_text("tokenizer_hash"), bytes_->hash());
  EXPECT_EQ(h5.attribute_int("vocab_size"), 259);
  const std::int64_t num_tokens = static_cast<std::int64_t>(text.size()) + 1 + 1 + 6 + 1;
  EXPECT_EQ(h5.attribute_int("num_tokens"), num_tokens);
  EXPECT_EQ(h5.attribute_int("num_bytes"), num_tokens - 2);
  EXPECT_EQ(h5.dtype("/tokens"), DType::u16);
  EXPECT_EQ(h5.shape("/tokens"), (Shape{num_tokens}));
  EXPECT_GT(h5.file_offset("/tokens"), 0);
  EXPECT_EQ(h5.dtype("/document_offsets"), DType::u64);
  std::vector<std::uint16_t> tokens(static_cast<std::size_t>(num_tokens));
  h5.read("/tokens", host_view(tokens.data(), Shape{num_tokens}));
  EXPECT_EQ(h5.attribute_text("tokens_checksum"), checksum_text(checksum(tokens.data(), tokens.size() * 2)));
  std::vector<std::uint64_t> offsets(3);
  h5.read("/document_offsets", host_view(offsets.data(), Shape{3}));
  EXPECT_EQ(offsets, (std::vector<std::uint64_t>{0, text.size() + 2, static_cast<std::uint64_t>(num_tokens)}));
  const auto sources = nlohmann::json::parse(h5.attribute_text("sources"));
  ASSERT_EQ(sources.size(), 1U);
  EXPECT_EQ(sources[0]["file"], input.string());
  EXPECT_EQ(sources[0]["bytes"], std::filesystem::file_size(input));
  EXPECT_EQ(sources[0]["xxh3"], checksum_text(checksum_file(input)));

  EXPECT_EQ(testing::documents_of(out_ / "train.h5", *bytes_), (Strings{text + "\n", "second"}));
  const auto json = nlohmann::json::parse(to_json(summary));
  EXPECT_EQ(json["train"]["documents"], 2);
  EXPECT_EQ(json["train"]["tokens"], num_tokens);
  EXPECT_EQ(json["train"]["bytes"], num_tokens - 2);
  EXPECT_EQ(json["train"]["file"], (out_ / "train.h5").string());
  EXPECT_TRUE(json["val"].is_null());
  EXPECT_EQ(json["vocab_size"], 259);
  EXPECT_GE(json["seconds"].get<double>(), 0);
}

TEST_F(PrepareTest, ThreadsAndBlockSizesChangeNoByte) {
  const auto a = file("a.txt", numbered_documents(500) + std::string(400000, 'q') + "\nend\n" + numbered_documents(40));
  std::string lines;
  for (int i = 0; i < 700; ++i)
    lines += "{\"text\": \"row " + std::to_string(i) + "\\nmore\"}\n" + (i % 50 == 0 ? "bad\n" : "");
  const auto b = file("b.jsonl.gz", testing::gzip(lines));
  std::string train;
  std::string val;
  for (const int threads : {1, 3}) {
    for (const std::size_t batch : {std::size_t{900}, std::size_t{70000}, std::size_t{1} << 20}) {
      PrepareOptions options = byte_options(out_, {a, b});
      options.threads = threads;
      options.batch_bytes = batch;
      options.val_fraction = 0.2;
      options.max_bad = 14;
      options.force = true;
      ::testing::internal::CaptureStderr();
      EXPECT_EQ(prepare(options).bad_lines, 14U);
      ::testing::internal::GetCapturedStderr();
      EXPECT_EQ(names_in(out_), (Strings{"train.h5", "val.h5"}));
      if (train.empty()) {
        train = read_bytes(out_ / "train.h5");
        val = read_bytes(out_ / "val.h5");
      }
      EXPECT_TRUE(read_bytes(out_ / "train.h5") == train) << threads << " threads, batches of " << batch;
      EXPECT_TRUE(read_bytes(out_ / "val.h5") == val) << threads << " threads, batches of " << batch;
    }
  }
}

TEST_F(PrepareTest, SplitsByWholeDocumentsWhateverElseIsPrepared) {
  const auto a = file("a.txt", numbered_documents(600));
  PrepareOptions options = byte_options(out_, {a});
  options.val_fraction = 0.25;
  const PrepareSummary first = prepare(options);
  const Strings train = testing::documents_of(out_ / "train.h5", *bytes_);
  const Strings val = testing::documents_of(out_ / "val.h5", *bytes_);
  EXPECT_EQ(train.size() + val.size(), 600U);
  EXPECT_EQ(first.val.documents, val.size());
  EXPECT_EQ(first.train.bytes + first.val.bytes + 600 * 14, std::filesystem::file_size(a));
  EXPECT_NEAR(static_cast<double>(val.size()) / 600, 0.25, 0.08);  // more than 4 standard deviations
  std::multiset<std::string> together(train.begin(), train.end());
  together.insert(val.begin(), val.end());
  for (int i = 0; i < 600; ++i) {
    const std::string document = "document " + std::to_string(i) + "\n" +
                                 std::string(static_cast<std::size_t>(i % 17), 'x') + " \xF0\x9F\x98\x80\xFF \r\n";
    EXPECT_EQ(together.count(document), 1U) << i;
  }

  const auto b = file("b.txt", "another\n<|endoftext|>\nand one more");
  PrepareOptions more = byte_options(folder_ / "more", {b, a});
  more.val_fraction = 0.25;
  prepare(more);
  const Strings val_more = testing::documents_of(folder_ / "more" / "val.h5", *bytes_);
  const std::set<std::string> held(val_more.begin(), val_more.end());
  for (const auto& document : val) EXPECT_TRUE(held.contains(document));
  EXPECT_LE(val_more.size(), val.size() + 2);
}

TEST_F(PrepareTest, EverySplitGetsADocumentWhenThereAreTwo) {
  const auto a = file("a.txt", "first\n<|endoftext|>\nsecond\n");
  for (const double fraction : {0.001, 0.999}) {
    PrepareOptions options = byte_options(out_, {a});
    options.val_fraction = fraction;
    options.force = true;
    const PrepareSummary summary = prepare(options);
    EXPECT_EQ(summary.train.documents, 1U);
    EXPECT_EQ(summary.val.documents, 1U);
  }
}

TEST_F(PrepareTest, ALoneDocumentIsCutAtALineEnd) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "line " + std::to_string(i) + "\n";
  for (const std::string& body :
       {text, std::string(3, '\n') + text + std::string(200000, 'w') + "\n" + text + "tail"}) {
    PrepareOptions options =
        byte_options(out_, {file("empty.txt", ""), file("a.txt", body), file("more.jsonl", "{\"text\": \"\"}")});
    options.val_fraction = 0.1;
    options.force = true;
    options.batch_bytes = 5000;
    const PrepareSummary summary = prepare(options);
    EXPECT_EQ(summary.empty_documents, 2U);
    const Strings train = testing::documents_of(out_ / "train.h5", *bytes_);
    const Strings val = testing::documents_of(out_ / "val.h5", *bytes_);
    ASSERT_EQ(train.size(), 1U);
    ASSERT_EQ(val.size(), 1U);
    EXPECT_EQ(train[0] + val[0], body);
    EXPECT_TRUE(train[0].ends_with('\n'));
    EXPECT_EQ(summary.train.bytes, train[0].size());
    EXPECT_EQ(summary.val.bytes, val[0].size());
    // Lines of `text` are up to 9 bytes; the other body has one long line, at the middle.
    EXPECT_NEAR(static_cast<double>(val[0].size()), 0.1 * static_cast<double>(body.size()), body == text ? 9 : 20000);
  }
  PrepareOptions options = byte_options(out_, {file("line.txt", "a single line\n")});
  options.val_fraction = 0.1;
  options.force = true;
  EXPECT_ERROR(prepare(options), InputError, "the only document is a single line");
}

TEST(LineEnds, AreThinnedOutEvenly) {
  LineEnds ends;
  for (std::uint64_t i = 1; i <= 1000000; ++i) ends.add({i, 2 * i});
  EXPECT_LE(ends.ends().size(), 65536U);
  EXPECT_GE(ends.ends().size(), 16384U);
  std::uint64_t largest_gap = 0;
  for (std::size_t i = 1; i < ends.ends().size(); ++i) {
    largest_gap = std::max(largest_gap, ends.ends()[i].tokens - ends.ends()[i - 1].tokens);
  }
  EXPECT_LE(largest_gap, 64U);
}

TEST_F(PrepareTest, BadLinesAreSkippedUpToTheLimitAndNamed) {
  const auto a = file("a.jsonl", "{\"text\": \"one\"}\n{\"txt\": 1}\n{\"text\": \"two\"}\nnonsense\n");
  PrepareOptions options = byte_options(out_, {a});
  EXPECT_ERROR(prepare(options), InputError, "a.jsonl:2 holds no document (no string under the key \"text\")");
  EXPECT_ERROR(prepare(options), InputError, "--max-bad N");
  options.max_bad = 1;
  EXPECT_ERROR(prepare(options), InputError, "a.jsonl:4 holds no document (not valid JSON");
  EXPECT_ERROR(prepare(options), InputError, "raise --max-bad 1");
  EXPECT_FALSE(std::filesystem::exists(out_));  // nothing is left of a failed run
  // The quotation of a long line is cut short.
  write_bytes(folder_ / "long.jsonl", "{\"text\": \"" + std::string(100000, '\xC3') + "\"}\n");
  try {
    prepare(byte_options(out_, {folder_ / "long.jsonl"}));
    ADD_FAILURE() << "no error";
  } catch (const InputError& e) {
    EXPECT_LT(std::string(e.what()).size(), 1000U);
  }
  options.max_bad = 2;
  ::testing::internal::CaptureStderr();
  const PrepareSummary summary = prepare(options);
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("a.jsonl:2 is skipped: no string"), std::string::npos) << log;
  EXPECT_NE(log.find("a.jsonl:4 is skipped: not valid JSON"), std::string::npos) << log;
  EXPECT_EQ(summary.bad_lines, 2U);
  EXPECT_EQ(testing::documents_of(out_ / "train.h5", *bytes_), (Strings{"one", "two"}));
}

TEST_F(PrepareTest, OnlyTheFirstTwentyBadLinesAreLogged) {
  std::string lines = "{\"text\": \"good\"}\n";
  for (int i = 0; i < 100; ++i) lines += "bad\n";
  PrepareOptions options = byte_options(out_, {file("a.jsonl", lines)});
  options.max_bad = 1000;
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(prepare(options).bad_lines, 100U);
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("a.jsonl:21 is skipped"), std::string::npos);
  EXPECT_EQ(log.find("a.jsonl:22 is skipped"), std::string::npos);
  EXPECT_NE(log.find("80 more lines were skipped"), std::string::npos);
}

TEST_F(PrepareTest, InputWithoutTextIsAnError) {
  PrepareOptions options = byte_options(out_, {file("a.txt", ""), file("b.jsonl", "\n")});
  EXPECT_ERROR(prepare(options), InputError, "no text in the input (1 empty documents, 0 bad lines)");
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(PrepareTest, ErrorsLeaveNothingAndComeFromTheFirstBadPlace) {
  const std::string gz = testing::gzip(numbered_documents(3000));
  PrepareOptions options = byte_options(out_, {file("good.txt", "x"), file("cut.gz", gz.substr(0, gz.size() - 30))});
  for (const int threads : {1, 4}) {
    options.threads = threads;
    EXPECT_ERROR(prepare(options), InputError, "cut.gz (the gzip stream is cut short)");
    EXPECT_FALSE(std::filesystem::exists(out_));
  }
}

TEST_F(PrepareTest, OptionsAreChecked) {
  const auto a = file("a.txt", "text\nmore\n");
  const auto message = [&](auto change, const std::string& part) {
    PrepareOptions options = byte_options(out_, {a});
    change(options);
    EXPECT_ERROR(prepare(options), InputError, part);
  };
  message([](PrepareOptions& o) { o.files.clear(); }, "nothing to prepare");
  message([](PrepareOptions& o) { o.output.clear(); }, "--output is missing");
  message([](PrepareOptions& o) { o.tokenizer.clear(); }, "exactly one of --tokenizer and --train-vocab");
  message([](PrepareOptions& o) { o.train_vocab = 300; }, "exactly one of --tokenizer and --train-vocab");
  message([](PrepareOptions& o) { o.val_fraction = 1; }, "--val-fraction 1 is out of range");
  message([](PrepareOptions& o) { o.val_fraction = std::nan(""); }, "--val-fraction nan is out of range");
  message([](PrepareOptions& o) { o.max_bad = -1; }, "--max-bad -1 is negative");
  message([](PrepareOptions& o) { o.threads = -2; }, "--threads -2");
  message([](PrepareOptions& o) { o.tokenizer = "missing.model"; }, "missing.model");
  EXPECT_FALSE(std::filesystem::exists(out_));
  message([&](PrepareOptions& o) { o.output = a / "below"; }, "cannot write to");
}

TEST_F(PrepareTest, ExistingDataIsOnlyReplacedByForce) {
  PrepareOptions options = byte_options(out_, {file("a.txt", "one\ntwo\n")});
  options.val_fraction = 0.5;
  prepare(options);
  EXPECT_ERROR(prepare(options), InputError, "train.h5 is already there");
  std::filesystem::remove(out_ / "train.h5");
  EXPECT_ERROR(prepare(options), InputError, "val.h5 is already there");
  options.force = true;
  options.val_fraction = 0;
  prepare(options);
  EXPECT_EQ(names_in(out_), Strings{"train.h5"});  // the old val.h5 belonged to other data
  options.files = {out_ / "train.h5"};
  EXPECT_ERROR(prepare(options), InputError, "both input and output");
}

TEST_F(PrepareTest, AKilledRunLeavesNothingThatLooksWhole) {
  PrepareOptions options = byte_options(out_, {file("a.txt", numbered_documents(20))});
  options.val_fraction = 0.3;
  for (const std::string point :
       {"prepare.tokenized", "prepare.written", "prepare.val.rename", "prepare.val.done", "prepare.train.rename"}) {
    options.force = true;
    testing::run_with_fault(point, [&] { prepare(options); });
    EXPECT_FALSE(std::filesystem::exists(out_ / "train.h5")) << point;
  }
  prepare(options);
  const std::string train = read_bytes(out_ / "train.h5");
  EXPECT_EQ(names_in(out_), (Strings{"train.h5", "val.h5"}));
  // Old data stay whole until the new are written.
  testing::run_with_fault("prepare.written", [&] { prepare(options); });
  EXPECT_TRUE(read_bytes(out_ / "train.h5") == train);
  prepare(options);
  EXPECT_EQ(names_in(out_), (Strings{"train.h5", "val.h5"}));
}

TEST_F(PrepareTest, SentencePieceTokensAreThoseOfWholeDocuments) {
  std::string text;
  for (int i = 0; i < 9000; ++i)
    text += "the quick brown fox number " + std::to_string(i * 37 % 1000) + " jumps\n" + (i % 9 == 0 ? "\n" : "");
  const auto a = file("a.txt", text);
  PrepareOptions options = byte_options(out_, {a});
  options.tokenizer.clear();
  options.train_vocab = 350;
  options.batch_bytes = 70000;
  const PrepareSummary trained = prepare(options);
  EXPECT_EQ(names_in(out_), (Strings{"tokenizer.model", "train.h5"}));
  EXPECT_EQ(trained.tokenizer, "tokenizer.model");
  EXPECT_EQ(trained.vocab_size, 350);
  EXPECT_EQ(trained.train.bytes, text.size());

  const auto tokenizer = make_tokenizer("tokenizer.model", out_);
  const TokenFile train = TokenFile::open(out_ / "train.h5");
  EXPECT_EQ(train.tokenizer_hash(), tokenizer->hash());
  EXPECT_EQ(train.vocab_size(), 350);
  auto expected = tokenizer->encode(text);
  expected.push_back(tokenizer->eos());
  EXPECT_EQ(testing::tokens_of(train), expected);

  PrepareOptions again = byte_options(folder_ / "again", {a});
  again.tokenizer = (out_ / "tokenizer.model").string();
  again.val_fraction = 0.2;
  const PrepareSummary split = prepare(again);
  EXPECT_EQ(names_in(again.output), (Strings{"tokenizer.model", "train.h5", "val.h5"}));
  EXPECT_EQ(read_bytes(again.output / "tokenizer.model"), read_bytes(out_ / "tokenizer.model"));
  const Strings first = testing::documents_of(again.output / "train.h5", *tokenizer);
  const Strings last = testing::documents_of(again.output / "val.h5", *tokenizer);
  EXPECT_EQ(first.at(0) + last.at(0), text);
  EXPECT_EQ(split.train.bytes, first.at(0).size());
  // Another model is never put over the one that is there.
  std::filesystem::remove(again.output / "train.h5");
  std::filesystem::remove(again.output / "val.h5");
  write_bytes(again.output / "tokenizer.model", "something else");
  EXPECT_ERROR(prepare(again), InputError, "tokenizer.model is already there (it is another tokenizer)");
}

TEST_F(PrepareTest, TheVocabularyDependsOnTheTextAlone) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "some words that repeat and some that do not: " + std::to_string(i * i) + "\n";
  text += "NUL \0 and \xFF bytes\r\n"s;
  const auto plain = file("a.txt", text);
  const auto compressed = file("a.gz", testing::gzip(text));
  const std::string model = train_vocabulary_on({plain}, 320);
  EXPECT_TRUE(train_vocabulary_on({compressed}, 320) == model);
  EXPECT_TRUE(train_vocabulary_on({plain}, 320, 5000) != model);  // a sample of the text
}

TEST_F(PrepareTest, ManySourcesAreStoredInADataSet) {
  std::vector<std::filesystem::path> files;
  for (int i = 0; i < 600; ++i)
    files.push_back(file(std::string(80, 'n') + std::to_string(i) + ".txt", "text " + std::to_string(i)));
  prepare(byte_options(out_, files));
  const Hdf5File h5 = Hdf5File::open(out_ / "train.h5");
  const auto where = nlohmann::json::parse(h5.attribute_text("sources"));
  EXPECT_EQ(where["dataset"], "/sources");
  std::string sources(static_cast<std::size_t>(h5.shape("/sources")[0]), '\0');
  h5.read("/sources", TensorView(sources.data(), DType::u8, Space::host, h5.shape("/sources")));
  EXPECT_EQ(nlohmann::json::parse(sources).size(), 600U);
  EXPECT_EQ(TokenFile::open(out_ / "train.h5").num_documents(), 600U);
}

}  // namespace
}  // namespace photon
