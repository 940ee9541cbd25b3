#include "tokenizer/segments.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace photon {
namespace {

std::vector<std::size_t> boundaries(std::string_view text) {
  std::vector<std::size_t> ends;
  for (std::size_t at = 0; at < text.size();) {
    at += first_segment(text.substr(at));
    ends.push_back(at);
  }
  return ends;
}

TEST(Segments, AreLinesWithAllTheirLineFeeds) {
  EXPECT_EQ(boundaries("ab\n\n\ncd\r\ne"), (std::vector<std::size_t>{5, 9, 10}));
  EXPECT_EQ(boundaries("\n\na"), (std::vector<std::size_t>{2, 3}));
  EXPECT_EQ(boundaries(""), std::vector<std::size_t>{});
}

TEST(Segments, LongLinesAreCutBetweenCharacters) {
  std::string text(max_segment_bytes - 1, 'x');
  text += "\xF0\x9F\x98\x80 and more\nnext";
  EXPECT_EQ(boundaries(text), (std::vector<std::size_t>{max_segment_bytes - 1, text.size() - 4, text.size()}));
  const std::string bytes(3 * max_segment_bytes, '\x80');
  EXPECT_EQ(boundaries(bytes).size(), 3U);
}

// Cutting a prefix of the text where last_segment_boundary says so must never make a cut that the whole text has not.
TEST(Segments, ABoundaryFoundInAPrefixIsOneOfTheWholeText) {
  std::string text;
  for (int i = 0; i < 40; ++i)
    text += std::string(static_cast<std::size_t>(i * 37 % 11), 'a' + i % 26) + std::string(i % 4, '\n');
  text += std::string(2 * max_segment_bytes + 17, 'y') + "\xC3\xA9\n\n";
  text += std::string(2 * max_segment_bytes + 5, '\n') + "end";
  const auto whole = boundaries(text);
  std::size_t largest = 0;
  std::size_t checked = 0;
  const auto check = [&](std::size_t size) {
    const std::size_t at = last_segment_boundary(std::string_view(text).substr(0, size));
    ++checked;
    ASSERT_TRUE(at == 0 || std::find(whole.begin(), whole.end(), at) != whole.end())
        << "prefix " << size << " cut at " << at;
    ASSERT_TRUE(at < size || size == 0);
    ASSERT_GE(at, largest);
    ASSERT_LE(size - at, max_segment_bytes + 4);  // what is left is bounded
    largest = at;
  };
  for (std::size_t size = 0; size < 700; ++size) check(size);
  for (std::size_t size = 700; size < text.size(); size += 1009) check(size);
  EXPECT_GT(checked, 800U);
  EXPECT_GT(largest, text.size() - max_segment_bytes - 1009 - 4);
}

}  // namespace
}  // namespace photon
