#include "storage/line_writer.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "storage/byte_stream.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {

class LineWriterTest : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& name) const { return folder_.path() / name; }
  static void put(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  static std::string text_of(const std::filesystem::path& path) {
    const auto input = open_text(path);
    std::string text;
    for (std::string line; std::getline(*input, line);) text += line + (input->eof() ? "" : "\n");
    return text;
  }

  testing::TemporaryFolder folder_;
};

const std::vector<std::string> endings{".jsonl", ".jsonl.gz", ".jsonl.zst"};

TEST_F(LineWriterTest, LinesComeBackWhateverTheForm) {
  for (const std::string& ending : endings) {
    const auto path = file("out" + ending);
    std::string expected;
    {
      LineWriter writer(path);
      for (int i = 0; i < 1000; ++i) {
        const std::string line = "line " + std::to_string(i) + std::string(static_cast<std::size_t>(i % 7), 'x');
        writer.write(line);
        expected += line + "\n";
        if (i % 100 == 50) writer.flush();
      }
    }  // its end flushes
    EXPECT_EQ(text_of(path), expected) << ending;
    const std::string start = read_text_file(path).substr(0, 2);
    EXPECT_EQ(start, ending == ".jsonl" ? "li" : (ending == ".jsonl.gz" ? "\x1f\x8b" : "\x28\xb5")) << ending;
    // What is appended later is a member of its own.
    {
      LineWriter writer(path);
      EXPECT_EQ(writer.recover(), 0);
      writer.write("more");
      writer.sync();
      EXPECT_EQ(text_of(path), expected + "more\n");
    }
  }
}

TEST_F(LineWriterTest, PlainLinesAndLargeMembersDoNotWait) {
  LineWriter plain(file("a.jsonl"));
  plain.write("x");
  EXPECT_EQ(read_text_file(file("a.jsonl")), "x\n");
  LineWriter packed(file("a.gz"));
  packed.write("x");
  EXPECT_EQ(std::filesystem::file_size(file("a.gz")), 0U);
  packed.write(std::string(LineWriter::flush_bytes, 'y'));
  EXPECT_EQ(text_of(file("a.gz")), "x\n" + std::string(LineWriter::flush_bytes, 'y') + "\n");
}

TEST_F(LineWriterTest, ATornEndIsDroppedAtEveryByte) {
  for (const std::string& ending : endings) {
    const Compression compression = compression_of("out" + ending);
    const std::string whole = compress("first\nsecond\n", compression) + compress("third\n", compression);
    const std::string last = compress("the fourth\n", compression);
    const auto path = file("torn" + ending);
    for (std::size_t bytes = 0; bytes <= last.size(); ++bytes) {
      put(path, whole + last.substr(0, bytes));
      const bool complete = bytes == last.size();
      LineWriter writer(path);
      EXPECT_EQ(writer.recover(), complete ? 0 : static_cast<std::int64_t>(bytes)) << ending << " " << bytes;
      writer.write("more");
      writer.flush();
      EXPECT_EQ(text_of(path), std::string("first\nsecond\nthird\n") + (complete ? "the fourth\n" : "") + "more\n");
    }
    // The same where the torn end is all there is.
    for (std::size_t bytes = 0; bytes < last.size(); ++bytes) {
      put(path, last.substr(0, bytes));
      LineWriter writer(path);
      EXPECT_EQ(writer.recover(), static_cast<std::int64_t>(bytes)) << ending << " " << bytes;
      EXPECT_EQ(std::filesystem::file_size(path), 0U);
    }
  }
  // Long lines: the end of the last whole one is searched block by block.
  const std::string line = std::string(200'000, 'a') + "\n";
  put(file("long.jsonl"), line + std::string(150'000, 'b'));
  EXPECT_EQ(LineWriter(file("long.jsonl")).recover(), 150'000);
  EXPECT_EQ(read_text_file(file("long.jsonl")), line);
}

TEST_F(LineWriterTest, RefusesDamageAndAnotherCompression) {
  std::string damaged = compress(std::string(1000, 'x') + "abc\n", Compression::gzip);
  damaged[damaged.size() - 6] ^= 1;  // its checksum
  put(file("damaged.gz"), damaged + compress("more\n", Compression::gzip));
  EXPECT_THROW(LineWriter(file("damaged.gz")).recover(), InputError);
  EXPECT_EQ(std::filesystem::file_size(file("damaged.gz")),
            damaged.size() + compress("more\n", Compression::gzip).size());

  put(file("plain.gz"), "{\"id\": 1}\n");
  put(file("other.zst"), compress("x\n", Compression::gzip));
  put(file("packed.jsonl"), compress("x\n", Compression::zstd));
  for (const std::string name : {"plain.gz", "other.zst", "packed.jsonl"}) {
    try {
      LineWriter(file(name)).recover();
      ADD_FAILURE() << name;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(name + " holds "), std::string::npos) << error.what();
    }
  }
  LineWriter asked(file("packed.jsonl"), Compression::zstd);
  EXPECT_EQ(asked.recover(), 0);
}

TEST_F(LineWriterTest, NamesOfCompressions) {
  EXPECT_EQ(parse_compression("auto", "a.gz"), Compression::gzip);
  EXPECT_EQ(parse_compression("auto", "a.zst"), Compression::zstd);
  EXPECT_EQ(parse_compression("auto", "-"), Compression::none);
  EXPECT_EQ(parse_compression("zstd", "-"), Compression::zstd);
  EXPECT_EQ(parse_compression("none", "a.gz"), Compression::none);
  EXPECT_EQ(parse_compression("gzip", "a.zst"), Compression::gzip);
  EXPECT_THROW(parse_compression("lz4", "a"), InputError);
}

TEST_F(LineWriterTest, TextsThatAreCutShortOrDamagedNameTheirFile) {
  const std::string text = "one\ntwo\n";
  for (const Compression compression : {Compression::gzip, Compression::zstd}) {
    const std::string ending = compression == Compression::gzip ? ".gz" : ".zst";
    const std::string bytes = compress(text, compression) + compress("three\n", compression);
    put(file("in" + ending), bytes);
    EXPECT_EQ(text_of(file("in" + ending)), text + "three\n");
    put(file("cut" + ending), bytes.substr(0, bytes.size() - 3));
    try {
      text_of(file("cut" + ending));
      ADD_FAILURE() << ending;
    } catch (const CutShort& error) {
      EXPECT_NE(std::string(error.what()).find("cut" + ending), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("cut short"), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(open_text(file("missing")), InputError);
  EXPECT_THROW(text_of(folder_.path()), InputError);
}

}  // namespace
}  // namespace photon
