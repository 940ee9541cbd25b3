#include "decode/part.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "decode/merge.hpp"
#include "decode/rank_work.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

class PartTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("photon_part_test." + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    output_ = folder_ / "out.jsonl";
    std::filesystem::create_directories(parts_folder(output_));
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path part(int rank) const { return part_file(parts_folder(output_), rank); }
  static void write(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static Result result(std::int64_t line, const std::string& text = "x") {
    return {"\"r" + std::to_string(line) + "\"", {{{1, 2}, {}, text, FinishReason::length}}, line};
  }
  static std::string line_of(std::int64_t line) { return result_line(result(line)) + "\n"; }
  void write_part(int rank, const std::vector<std::int64_t>& lines) const {
    PartWriter writer(part(rank));
    for (const std::int64_t line : lines) writer.result(result(line));
  }
  // Lines of the prompts that a part holds.
  static std::vector<std::int64_t> lines(const std::filesystem::path& path) {
    std::vector<std::int64_t> lines;
    const std::string bytes = read_text_file(path);
    read_part(path, [&](const PartRecord& record) {
      EXPECT_EQ(record.key, key_of_id("\"r" + std::to_string(record.line) + "\""));
      EXPECT_EQ(std::string(record.text) + "\n", line_of(record.line));
      EXPECT_EQ(bytes.substr(static_cast<std::size_t>(record.text_begin), record.text.size()), record.text);
      lines.push_back(record.line);
    });
    return lines;
  }
  std::string merged(const MergeOptions& options = {}) const {
    merge_parts(output_, options, [] { return true; });
    return read_text_file(output_);
  }

  std::filesystem::path folder_;
  std::filesystem::path output_;
};

using Lines = std::vector<std::int64_t>;

TEST_F(PartTest, RecordsReadBack) {
  {
    PartWriter writer(part(3));
    writer.result(result(7));
    writer.error({RowError::Kind::duplicate, "\"r7\"", 9, "why"});
    writer.error({RowError::Kind::invalid, "\"bad\"", 10, "why"});
  }
  std::vector<PartRecord> records;
  std::vector<std::string> texts;
  const PartSummary summary = read_part(part(3), [&](const PartRecord& record) {
    records.push_back(record);
    texts.emplace_back(record.text);
  });
  EXPECT_EQ(summary.num_records, 3);
  EXPECT_EQ(summary.num_damaged, 0);
  EXPECT_EQ(summary.whole_bytes, static_cast<std::int64_t>(std::filesystem::file_size(part(3))));
  ASSERT_EQ(records.size(), 3U);
  EXPECT_FALSE(records[0].error);
  EXPECT_TRUE(records[1].error);
  EXPECT_EQ(records[1].key, key_of_line(9));
  EXPECT_EQ(records[2].key, key_of_id("\"bad\""));
  EXPECT_EQ(records[2].line, 10);
  EXPECT_EQ(texts[2], error_line({RowError::Kind::invalid, "\"bad\"", 10, "why"}));
}

TEST_F(PartTest, ATornEndIsCutWhereverItTears) {
  write_part(0, {1});
  const std::string one = read_text_file(part(0));
  write_part(0, {2});
  const std::string two = read_text_file(part(0));
  for (std::size_t bytes = 0; bytes < two.size(); ++bytes) {
    write(part(0), two.substr(0, bytes));
    recover_part(part(0), false);
    const std::string left = read_text_file(part(0));
    EXPECT_EQ(left, bytes >= one.size() ? one : bytes >= 14 ? one.substr(0, 14) : "") << bytes;
    write_part(0, {2});
    EXPECT_EQ(lines(part(0)), (bytes >= one.size() ? Lines{1, 2} : Lines{2})) << bytes;
  }
}

TEST_F(PartTest, DamagedRecordsAreLeftOut) {
  write_part(0, {1, 2, 3});
  const std::string whole = read_text_file(part(0));
  const std::size_t second = whole.find('\n', whole.find('\n') + 1) + 1;
  const std::size_t third = whole.find('\n', second) + 1;
  for (std::size_t at = second; at + 1 < third; ++at) {  // any byte of record 2, but its line end
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    write(part(0), damaged);
    recover_part(part(0), false);
    EXPECT_EQ(lines(part(0)), (Lines{1, 3})) << at;
  }
  // A machine that stopped may leave zeros where text was.
  write(part(0), whole + std::string(5000, '\0'));
  recover_part(part(0), false);
  EXPECT_EQ(read_text_file(part(0)), whole);
}

TEST_F(PartTest, ErrorsAreDroppedOnRequest) {
  {
    PartWriter writer(part(0));
    writer.error({RowError::Kind::invalid, "\"bad\"", 0, "why"});
    writer.result(result(1));
    writer.error({RowError::Kind::malformed, "2", 2, "why"});
  }
  recover_part(part(0), true);
  EXPECT_EQ(lines(part(0)), Lines{1});
}

TEST_F(PartTest, OtherFilesAreRefused) {
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"hello\n", "is no part of photon generate"}, {"photon-part 2\n", "has the format 'photon-part 2'"}}) {
    write(part(0), text);
    try {
      recover_part(part(0), false);
      ADD_FAILURE() << text;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
    EXPECT_EQ(read_text_file(part(0)), text);
  }
  write_part(1, {1});
  PartWriter writer(part(1));
  EXPECT_THROW(PartWriter(part(1)), InputError);
}

TEST_F(PartTest, PartsAreFoundByRank) {
  for (const int rank : {10, 2, 0}) write_part(rank, {});
  for (const char* name : {"rank-1.log", "rank-x.part", "lock", "rank-3.part.tmp"})
    write(parts_folder(output_) / name, "");
  EXPECT_EQ(find_parts(parts_folder(output_)), (std::vector<std::filesystem::path>{part(0), part(2), part(10)}));
  EXPECT_TRUE(find_parts(folder_ / "nothing").empty());
}

TEST_F(PartTest, PartsJoinToTheOutput) {
  write(output_, line_of(9) + line_of(8));
  write_part(0, {5, 1});
  write_part(2, {4, 0, 3});
  const MergeSummary summary = merge_parts(output_, {.keep_parts = true, .expected_rows = 7}, [] { return true; });
  EXPECT_EQ(summary.num_rows, 7);
  EXPECT_EQ(summary.num_parts, 2);
  const std::string expected = line_of(9) + line_of(8) + line_of(5) + line_of(1) + line_of(4) + line_of(0) + line_of(3);
  EXPECT_EQ(read_text_file(output_), expected);
  // Joined once more, as after a kill between the output's rename and the end of the parts.
  EXPECT_EQ(merged(), expected);
  EXPECT_FALSE(std::filesystem::exists(parts_folder(output_)));
}

TEST_F(PartTest, PartsJoinInTheOrderOfThePrompts) {
  write_part(0, {5, 1, 6});
  write_part(1, {4, 0, 3});
  write_part(2, {});
  write_part(3, {2, 1});  // 1 stands twice
  EXPECT_EQ(merged({.ordered = true, .expected_rows = 7}),
            line_of(0) + line_of(1) + line_of(2) + line_of(3) + line_of(4) + line_of(5) + line_of(6));
}

TEST_F(PartTest, AMergeThatCannotEndChangesNothing) {
  Lines many;
  for (std::int64_t i = 0; i < 1000; ++i) many.push_back(i);
  write(output_, line_of(2000));
  write_part(0, many);
  for (const bool ordered : {false, true}) {
    int calls = 0;
    EXPECT_THROW(merge_parts(output_, {.ordered = ordered}, [&] { return ++calls < 3; }), Preempted);
    EXPECT_THROW(merge_parts(output_, {.ordered = ordered, .expected_rows = 1002}, [] { return true; }), Error);
    EXPECT_EQ(read_text_file(output_), line_of(2000));
    EXPECT_EQ(lines(part(0)), many);
    EXPECT_FALSE(std::filesystem::exists(output_.string() + ".merging"));
  }
}

TEST_F(PartTest, RowsTravelWhole) {
  PromptLine a;
  a.line = 7;
  a.key = {1, 2};
  a.text = std::string("a\0b\n", 4);
  PromptLine b;
  b.line = std::int64_t{1} << 40;
  b.duplicate = true;
  const std::string packed = pack_rows({a, b});
  const std::vector<PromptLine> rows = unpack_rows(packed);
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].line, 7);
  EXPECT_EQ(rows[0].key, a.key);
  EXPECT_FALSE(rows[0].duplicate);
  EXPECT_EQ(rows[0].text, a.text);
  EXPECT_EQ(rows[1].line, b.line);
  EXPECT_TRUE(rows[1].duplicate);
  EXPECT_EQ(rows[1].text, "");
  EXPECT_TRUE(unpack_rows("").empty());
  EXPECT_THROW(unpack_rows(packed.substr(0, packed.size() - 1)), Error);
}

}  // namespace
}  // namespace photon
