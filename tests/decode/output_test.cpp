#include "decode/output.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "storage/byte_stream.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

class ResultFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("photon_output_test." + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    path_ = folder_ / "out.jsonl";
    std::filesystem::remove(path_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  std::string content() const { return read_text_file(path_); }

  std::filesystem::path folder_;
  std::filesystem::path path_;
};

Result result(const std::string& id, const std::string& text) {
  return {id, {{{1, 2}, {}, text, FinishReason::length}}};
}

TEST_F(ResultFileTest, RowsAreLinesOfJson) {
  EXPECT_EQ(result_line(result("\"a\"", "hi")), R"({"id":"a","text":"hi","tokens":[1,2],"finish_reason":"length"})");
  Result two{"7", {{{1}, {-0.5F}, "x", FinishReason::eos}, {{2}, {-1.0F}, "y", FinishReason::stop}}};
  EXPECT_EQ(result_line(two), R"({"id":7,"outputs":[{"text":"x","tokens":[1],"finish_reason":"eos","logprobs":[-0.5]},)"
                              R"({"text":"y","tokens":[2],"finish_reason":"stop","logprobs":[-1.0]}]})");
  EXPECT_EQ(error_line({RowError::Kind::too_long, "\"a\"", 3, "too \"long\""}),
            R"({"id":"a","error":{"type":"too_long","message":"too \"long\"","line":3}})");
  EXPECT_EQ(nlohmann::json::parse(result_line(result("1",
                                                     "a\xff"
                                                     "b\nc")))["text"],
            "a\xef\xbf\xbd"
            "b\nc");
}

TEST_F(ResultFileTest, ARestartKnowsWhatIsDoneAndDropsATornLine) {
  {
    ResultFile file(path_, false);
    file.result(result("\"a\"", "x"));
    file.error({RowError::Kind::invalid, "\"bad\"", 1, "why"});
    file.error({RowError::Kind::duplicate, "\"a\"", 2, "why"});
    file.error({RowError::Kind::malformed, "3", 3, "why"});
    file.sync();
  }
  const std::string whole = content();
  for (std::size_t torn = 1; torn < 20; torn += 6) {
    write(whole + result_line(result("\"b\"", "y")).substr(0, torn));
    ResultFile file(path_, false);
    EXPECT_EQ(content(), whole);
    EXPECT_EQ(file.num_resumed(), 4);
    EXPECT_EQ(file.num_errors(), 3);
    EXPECT_TRUE(file.has(key_of_id("\"a\"")));
    EXPECT_FALSE(file.has(key_of_id("\"b\"")));
    EXPECT_TRUE(file.has(key_of_id("\"bad\"")));
    EXPECT_FALSE(file.has(key_of_id("3")));  // a malformed line is known by its line alone
    EXPECT_TRUE(file.has(key_of(RowError{RowError::Kind::invalid, "\"bad\"", 1, ""})));
    EXPECT_TRUE(file.has(key_of(RowError{RowError::Kind::duplicate, "\"a\"", 2, ""})));
    EXPECT_FALSE(file.has(key_of(RowError{RowError::Kind::duplicate, "\"a\"", 5, ""})));
    EXPECT_TRUE(file.has(key_of(RowError{RowError::Kind::malformed, "3", 3, ""})));
    file.result(result("\"b\"", "y"));
    EXPECT_EQ(content(), whole + result_line(result("\"b\"", "y")) + "\n");
  }
  // Even a line that only lacks its end is done again.
  write(result_line(result("\"b\"", "y")));
  EXPECT_FALSE(ResultFile(path_, false).has(key_of_id("\"b\"")));
  EXPECT_EQ(content(), "");
}

// A file that was named by mistake stays as it is, to the byte.
TEST_F(ResultFileTest, FilesOfOthersAreRefusedWhole) {
  const std::string line = result_line(result("1", "x"));
  const std::vector<std::string> texts{
      "notes\nwithout an end",
      "one line",
      R"({"id": 1, "prompt": "In the"})",
      R"({"id": 1, "prompt": "In the"})"
      "\n"
      R"({"id": 2, "prom)",
      "[1]\n",
  };
  for (const std::string& text : texts) {
    for (const std::string ending : {"", ".gz", ".zst"}) {
      path_ = folder_ / ("out.jsonl" + ending);
      const std::string bytes = compress(text, compression_of(path_));
      const std::string torn = ending.empty() ? bytes : bytes + bytes.substr(0, bytes.size() / 2);
      write(torn);
      EXPECT_THROW(ResultFile(path_, false), InputError) << text << ending;
      EXPECT_EQ(content(), torn) << text << ending;
    }
  }
  // Ours may be torn at its first byte.
  path_ = folder_ / "out.jsonl";
  for (std::size_t size = 1; size <= line.size(); ++size) {
    write(line.substr(0, size));
    EXPECT_EQ(ResultFile(path_, false).num_resumed(), 0) << size;
    EXPECT_EQ(content(), "");
  }
}

TEST_F(ResultFileTest, ErrorsAreTriedAgainOnRequest) {
  write(result_line(result("1", "x")) + "\n" + error_line({RowError::Kind::invalid, "2", 1, "why"}) + "\n" +
        result_line(result("3", "z")) + "\n");
  ResultFile file(path_, true);
  EXPECT_TRUE(file.has(key_of_id("1")));
  EXPECT_FALSE(file.has(key_of_id("2")));
  EXPECT_TRUE(file.has(key_of_id("3")));
  file.result(result("2", "y"));
  EXPECT_EQ(content(), result_line(result("1", "x")) + "\n" + result_line(result("3", "z")) + "\n" +
                           result_line(result("2", "y")) + "\n");
}

TEST_F(ResultFileTest, CompressedResultsAreGoneOnWith) {
  for (const std::string ending : {".gz", ".zst"}) {
    path_ = folder_ / ("out.jsonl" + ending);
    const Compression compression = compression_of(path_);
    {
      ResultFile file(path_, false);
      file.result(result("1", "x"));
      file.error({RowError::Kind::invalid, "2", 1, "why"});
      file.sync();
      file.result(result("3", "z"));
    }
    const std::string torn = compress(result_line(result("4", "w")) + "\n", compression);
    write(content() + torn.substr(0, torn.size() / 2));
    {
      ResultFile file(path_, false);
      EXPECT_EQ(file.num_resumed(), 3);
      EXPECT_EQ(file.num_errors(), 1);
    }
    {
      ResultFile file(path_, true);
      EXPECT_EQ(file.num_resumed(), 2);
      EXPECT_EQ(file.num_errors(), 0);
      file.result(result("2", "y"));
    }
    const auto text = open_text(path_);
    std::string lines;
    for (std::string line; std::getline(*text, line);) lines += line + "\n";
    EXPECT_EQ(lines, result_line(result("1", "x")) + "\n" + result_line(result("3", "z")) + "\n" +
                         result_line(result("2", "y")) + "\n");
    EXPECT_FALSE(std::filesystem::exists(path_.string() + ".tmp"));
    // Compressed by somebody, without the last line's end.
    write(compress(result_line(result("1", "x")), compression));
    {
      ResultFile file(path_, false);
      EXPECT_EQ(file.num_resumed(), 1);
      file.result(result("2", "y"));
    }
    EXPECT_EQ(ResultFile(path_, false).num_resumed(), 2);
  }
}

TEST_F(ResultFileTest, RefusesAFileThatIsNotItsOwn) {
  for (const std::string text : {"{\"id\": 1, \"prompt\": \"x\"}\n", "hello\n", "[]\n", "{\"text\": \"\"}\n", "\n"}) {
    write(text);
    try {
      ResultFile file(path_, false);
      ADD_FAILURE() << text;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find("line 1 is no result of photon generate"), std::string::npos)
          << error.what();
    }
    EXPECT_EQ(content(), text);
  }
}

TEST_F(ResultFileTest, TwoJobsDoNotShareAnOutput) {
  ResultFile file(path_, false);
  EXPECT_THROW(ResultFile(path_, false), InputError);
  EXPECT_THROW(ResultFile(folder_ / "missing" / "out.jsonl", false), InputError);
}

}  // namespace
}  // namespace photon
