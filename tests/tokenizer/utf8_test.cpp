#include "tokenizer/utf8.hpp"

#include <gtest/gtest.h>

namespace photon {
namespace {

using namespace std::string_literals;

TEST(Utf8, IncompleteSuffixCountsOnlyWhatCanStillBecomeACharacter) {
  EXPECT_EQ(utf8_incomplete_suffix(""), 0U);
  EXPECT_EQ(utf8_incomplete_suffix("abc"), 0U);
  const std::string emoji = "\xF0\x9F\x98\x80";
  for (std::size_t n = 1; n < 4; ++n) EXPECT_EQ(utf8_incomplete_suffix(emoji + emoji.substr(0, n)), n);
  EXPECT_EQ(utf8_incomplete_suffix(emoji + emoji), 0U);
  EXPECT_EQ(utf8_incomplete_suffix("\x80\x80\x80"), 0U);
  EXPECT_EQ(utf8_incomplete_suffix("\xC0"), 0U);      // begins no character
  EXPECT_EQ(utf8_incomplete_suffix("\xED\xA0"), 0U);  // a surrogate
  EXPECT_EQ(utf8_incomplete_suffix("\xE2\x96"), 2U);
}

TEST(Utf8, SanitizeKeepsValidTextAndReplacesTheRest) {
  const std::string valid = "a\0\xC3\xA9\xE2\x96\x81\xF0\x9F\x98\x80"s;
  EXPECT_EQ(utf8_sanitize(valid), valid);
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(utf8_sanitize("a\xFF"
                          "b"),
            std::string("a").append(bad).append("b"));
  EXPECT_EQ(utf8_sanitize("\xE2\x96"), bad);  // one for a cut-off character
  EXPECT_EQ(utf8_sanitize("\xE2\x96"
                          "a"),
            bad + "a");
  EXPECT_EQ(utf8_sanitize("\xED\xA0\x80"), bad + bad + bad);
  EXPECT_EQ(utf8_sanitize("\xC0\xAF"), bad + bad);
}

TEST(Utf8, FloorFindsTheStartOfTheCharacter) {
  const std::string text = "a\xF0\x9F\x98\x80z";
  EXPECT_EQ(utf8_floor(text, 0), 0U);
  for (std::size_t p = 1; p < 5; ++p) EXPECT_EQ(utf8_floor(text, p), 1U);
  EXPECT_EQ(utf8_floor(text, 5), 5U);
  EXPECT_EQ(utf8_floor(std::string(20, '\x80'), 10), 10U);
}

}  // namespace
}  // namespace photon
