#include "decode/row_key.hpp"

#include <gtest/gtest.h>

#include <string>

namespace photon {
namespace {

TEST(RowKeyTest, IdsAndLinesNeverMeet) {
  EXPECT_EQ(key_of_id("\"a\""), key_of_id("\"a\""));
  EXPECT_NE(key_of_id("\"1\""), key_of_id("1"));
  EXPECT_NE(key_of_id("1"), key_of_line(1));
  EXPECT_NE(key_of_line(1), key_of_line(11));
}

TEST(RowKeyTest, TextsReadBack) {
  const RowKey key{0x0123456789abcdef, 0x00000000000000fe};
  EXPECT_EQ(key_text(key), "0123456789abcdef00000000000000fe");
  RowKey back;
  ASSERT_TRUE(parse_key(key_text(key), back));
  EXPECT_EQ(back, key);
  for (const std::string text : {"", "0123456789abcdef00000000000000f", "0123456789abcdef00000000000000fg",
                                 "0123456789abcdeg00000000000000fe", "0123456789abcdef00000000000000fe0"}) {
    EXPECT_FALSE(parse_key(text, back)) << text;
  }
}

TEST(RowKeyTest, SetsHoldWhatWasInserted) {
  KeySet set;
  EXPECT_FALSE(set.contains(key_of_line(0)));
  constexpr std::int64_t count = 100'003;
  for (std::int64_t i = 0; i < count; ++i) {
    ASSERT_TRUE(set.insert(key_of_line(i)));
    ASSERT_FALSE(set.insert(key_of_line(i / 2)));
  }
  EXPECT_EQ(set.size(), static_cast<std::size_t>(count));
  EXPECT_LE(set.bytes(), 16U * 2U * 131'072U);
  for (std::int64_t i = 0; i < count; ++i) {
    ASSERT_TRUE(set.contains(key_of_line(i)));
    ASSERT_FALSE(set.contains(key_of_id(std::to_string(i))));
  }
  // Keys that want the same place.
  KeySet crowded;
  for (std::uint64_t i = 1; i <= 1000; ++i) ASSERT_TRUE(crowded.insert({i, 0}));
  for (std::uint64_t i = 1; i <= 1000; ++i) ASSERT_TRUE(crowded.contains({i, 0}));
  EXPECT_FALSE(crowded.contains({1001, 0}));
}

}  // namespace
}  // namespace photon
