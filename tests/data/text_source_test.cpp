#include "data/text_source.hpp"

#include <gtest/gtest.h>

#include <optional>

#include "data_fixture.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using namespace std::string_literals;
using testing::TemporaryFolder;
using testing::write_bytes;
using Strings = std::vector<std::string>;

struct ReadBack {
  Strings documents;
  Strings bad;  // "line: why"
};

// Joins the pieces; checks that pieces are in order.
ReadBack read_all(const std::vector<std::filesystem::path>& files, std::size_t batch_bytes = 1 << 20) {
  TextSource source(files, batch_bytes);
  TextBatch batch;
  ReadBack back;
  std::optional<std::string> current;
  while (source.next(batch)) {
    batch.for_each(
        [&](const TextPiece& piece) {
          EXPECT_EQ(piece.starts_document, !current.has_value());
          if (piece.starts_document) {
            current = "";
            EXPECT_TRUE(piece.ends_document || piece.text.size() >= first_piece_bytes);
          }
          *current += piece.text;
          if (!piece.ends_document) return;
          back.documents.push_back(*current);
          current.reset();
        },
        [&](const BadLine& line) { back.bad.push_back(std::to_string(line.line).append(": ").append(line.why)); });
  }
  EXPECT_FALSE(current.has_value());
  EXPECT_EQ(source.bytes_read(), source.total_bytes());
  EXPECT_EQ(source.digests().size(), files.size());
  return back;
}

class TextSourceTest : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& name, const std::string& bytes) {
    write_bytes(folder_ / name, bytes);
    return folder_ / name;
  }
  Strings documents(const std::string& name, const std::string& bytes, std::size_t batch_bytes = 1 << 20) {
    return read_all({file(name, bytes)}, batch_bytes).documents;
  }
  TemporaryFolder folder_;
};

TEST_F(TextSourceTest, APlainFileIsOneDocumentByteForByte) {
  const std::string text = "\xEF\xBB\xBFhead\r\n\xFF\xFE\0bytes \xF0\x9F\x98\x80\n\n no end"s;
  EXPECT_EQ(documents("a.txt", text), Strings{text});
  EXPECT_EQ(documents("empty.txt", ""), Strings{""});
}

TEST_F(TextSourceTest, SeparatorsAreWholeLinesOnly) {
  const Strings expected{"one\n", "a <|endoftext|> inside\n<|endoftext|>x\n <|endoftext|>\n", "", "two\r\n", "three"};
  const std::string text =
      "one\n<|endoftext|>\na <|endoftext|> inside\n<|endoftext|>x\n "
      "<|endoftext|>\n<|endoftext|>\n<|endoftext|>\ntwo\r\n"
      "<|endoftext|>\r\nthree";
  for (const std::size_t batch : {1U, 7U, 16U, 33U, 1000U})
    EXPECT_EQ(documents("s.txt", text, batch), expected) << batch;
  // A separator at the end ends the last document, and begins none.
  EXPECT_EQ(documents("e.txt", "one\n<|endoftext|>"), Strings{"one\n"});
  EXPECT_EQ(documents("e.txt", "one\n<|endoftext|>\n"), Strings{"one\n"});
  EXPECT_EQ(documents("e.txt", "<|endoftext|>\none"), (Strings{"", "one"}));
}

TEST_F(TextSourceTest, LongDocumentsComeInPiecesAndSeparatorsAreFoundAtEveryPlace) {
  std::string lines;
  for (int i = 0; i < 12000; ++i)
    lines += std::string(static_cast<std::size_t>(i % 61), static_cast<char>('a' + i % 26)) + "\n";
  const std::string one_line(300000, 'x');
  const Strings expected{lines, one_line + "\n", lines + one_line, "short\n", std::string(200000, '\n')};
  std::string text;
  for (const auto& document : expected) {
    text += document;
    if (!text.ends_with('\n')) text += "\n";
    text += "<|endoftext|>\n";
  }
  Strings with_feeds = expected;
  with_feeds[2] += "\n";
  for (const std::size_t batch : {100U, 65536U, 131072U, 200003U, 10000000U}) {
    EXPECT_EQ(documents("long.txt", text, batch), with_feeds) << batch;
  }
}

TEST_F(TextSourceTest, JsonLinesGiveTheirText) {
  const std::string text =
      "{\"text\": \"a\\nb \\u00e9 \\ud83d\\ude00 \\u0000\"}\r\n\n   \n"
      "{\"id\": 3, \"nested\": {\"text\": \"no\"}, \"text\": \"yes\", \"list\": [\"text\", {\"text\": 1}]}\n"
      "{\"text\": \"\"}\n"
      "{\"text\": \"last line without end \xF0\x9F\x98\x80\"}";
  const Strings expected{"a\nb \xC3\xA9 \xF0\x9F\x98\x80 \0"s, "yes", "", "last line without end \xF0\x9F\x98\x80"};
  for (const std::string name : {"a.jsonl", "a.ndjson", "a.json"}) {
    for (const std::size_t batch : {1U, 10U, 100000U}) {
      const ReadBack back = read_all({file(name, text)}, batch);
      EXPECT_EQ(back.documents, expected);
      EXPECT_EQ(back.bad, Strings{});
    }
  }
}

TEST_F(TextSourceTest, BadJsonLinesAreReportedWithTheirNumberAndReason) {
  const std::string text =
      "{\"text\": \"fine\"}\n{\"text\": \"cut\n\n[1]\n{\"txt\": \"a\"}\n{\"text\": 5}\n{\"text\": \"\xFF\"}\n"
      "{\"text\": \"\\ud800\"}\n\"text\"\n{\"text\": \"a\"} trailing\n{\"text\": {\"text\": \"b\"}}\n{\"text\": \"fine "
      "too\"}\n";
  for (const std::size_t batch : {5U, 40U, 100000U}) {
    const ReadBack back = read_all({file("bad.jsonl", text)}, batch);
    EXPECT_EQ(back.documents, (Strings{"fine", "fine too"}));
    ASSERT_EQ(back.bad.size(), 9U);
    const Strings starts{"2: not valid JSON",    "4: not a JSON object", "5: no string under the key \"text\"",
                         "6: no string under",   "7: not valid JSON",    "8: not valid JSON",
                         "9: not a JSON object", "10: not valid JSON",   "11: no string under"};
    for (std::size_t i = 0; i < starts.size(); ++i) EXPECT_TRUE(back.bad[i].starts_with(starts[i])) << back.bad[i];
  }
}

TEST_F(TextSourceTest, CompressedFilesEqualPlainOnes) {
  std::string text;
  for (int i = 0; i < 30000; ++i) text += "line " + std::to_string(i * 7919 % 10007) + "\n";
  const std::string half = text.substr(0, text.size() / 2);
  const std::string rest = text.substr(text.size() / 2);
  const Strings expected{text};
  EXPECT_EQ(documents("a.txt.gz", testing::gzip(text)), expected);
  EXPECT_EQ(documents("a.txt.zst", testing::zstd(text)), expected);
  EXPECT_EQ(documents("members.gz", testing::gzip(half) + testing::gzip(rest)), expected);
  EXPECT_EQ(documents("padded.gz", testing::gzip(half) + testing::gzip(rest) + std::string(512, '\0')), expected);
  EXPECT_EQ(documents("frames.zst", testing::zstd(half) + testing::zstd("") + testing::zstd(rest)), expected);
  EXPECT_EQ(documents("noname", testing::gzip(text)), expected);  // known by its first bytes
  EXPECT_EQ(documents("empty.gz", testing::gzip("")), Strings{""});
  EXPECT_EQ(documents("a.jsonl.gz", testing::gzip("{\"text\": \"z\"}\n")), Strings{"z"});
  EXPECT_EQ(documents("a.json.zst", testing::zstd("{\"text\": \"z\"}\n")), Strings{"z"});
}

TEST_F(TextSourceTest, DamagedAndMissingFilesAreNamed) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += std::to_string(i * 2654435761U % 1000003);
  const std::string gz = testing::gzip(text);
  const std::string zst = testing::zstd(text);
  const auto expect = [&](const std::string& name, const std::string& bytes, const std::string& why) {
    EXPECT_ERROR(documents(name, bytes), InputError, name);
    EXPECT_ERROR(documents(name, bytes), InputError, why);
  };
  for (const std::size_t keep : {std::size_t{12}, gz.size() / 2, gz.size() - 1})
    expect("cut.gz", gz.substr(0, keep), "cut short");
  for (const std::size_t keep : {std::size_t{6}, zst.size() / 2, zst.size() - 1})
    expect("cut.zst", zst.substr(0, keep), "cut short");
  std::string flipped = gz;
  flipped[gz.size() / 2] = static_cast<char>(~flipped[gz.size() / 2]);
  expect("flipped.gz", flipped, "cannot decompress");
  expect("tail.gz", gz + "garbage", "incorrect header check");
  expect("plain.gz", "just text", "named .gz but is not gzip");
  expect("plain.zst", "", "named .zst but is not zstd");
  EXPECT_ERROR(TextSource({folder_ / "nowhere.txt"}), InputError, "nowhere.txt (no such file)");
  EXPECT_ERROR(TextSource({folder_.path()}), InputError, "it is a folder");
  EXPECT_ERROR(TextSource({"/dev/null"}), InputError, "not a regular file");
}

TEST_F(TextSourceTest, DigestsAreThoseOfTheFilesOnDisk) {
  const auto a = file("a.gz", testing::gzip("text"));
  const auto b = file("b.txt", std::string(700000, 'b'));
  TextSource source({a, b});
  TextBatch batch;
  while (source.next(batch)) continue;
  ASSERT_EQ(source.digests().size(), 2U);
  EXPECT_EQ(source.digests()[0].xxh3, checksum_file(a));
  EXPECT_EQ(source.digests()[1].xxh3, checksum_file(b));
  EXPECT_EQ(source.digests()[1].bytes, 700000U);
}

}  // namespace
}  // namespace photon
