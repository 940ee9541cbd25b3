#include "kernels/product_choices.hpp"

#include <gtest/gtest.h>

#include "support/error.hpp"

namespace photon {
namespace {

const ProductAlgorithm algorithm = {1, 0xffffffffffffffffULL, 0x0123456789abcdefULL, 0, 5, 6, 7, 8};

std::string message_of(const std::string& json) {
  try {
    use_product_choices(json);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST(ProductChoices, SurviveTheirText) {
  keep_product_choice("a GPU, cuBLASLt 1", "m=3 n=4 k=5", {algorithm, 12.5});
  const std::string json = product_choices();
  EXPECT_NE(json.find("\"m=3 n=4 k=5\""), std::string::npos) << json;
  std::string other = json;
  const std::size_t at = other.find("a GPU, cuBLASLt 1");
  ASSERT_NE(at, std::string::npos);
  other.replace(at, 17, "b GPU, cuBLASLt 1");
  EXPECT_EQ(use_product_choices(other), 1);
  const std::optional<ProductChoice> choice = find_product_choice("b GPU, cuBLASLt 1", "m=3 n=4 k=5");
  ASSERT_TRUE(choice.has_value());
  EXPECT_EQ(choice->algorithm, algorithm);
  EXPECT_EQ(choice->microseconds, 12.5);
}

TEST(ProductChoices, TheFirstStands) {
  keep_product_choice("first", "p", {algorithm, 1.0});
  keep_product_choice("first", "p", {{}, 2.0});
  EXPECT_EQ(find_product_choice("first", "p")->algorithm, algorithm);
  EXPECT_FALSE(find_product_choice("another", "p").has_value());
}

TEST(ProductChoices, RefuseWhatTheyCannotRead) {
  EXPECT_NE(message_of("no json").find("the product choices cannot be read"), std::string::npos);
  EXPECT_NE(message_of(R"({"format_version": 1})").find("the product choices cannot be read"), std::string::npos);
  EXPECT_NE(message_of(R"({"format_version": 99, "products": []})").find("format_version 99"), std::string::npos);
  // One bad entry: none is taken.
  const std::string half = R"({"format_version": 1, "products": [
    {"machine": "half", "product": "p", "algorithm": ")" +
                           std::string(128, '1') + R"(", "microseconds": 1.0},
    {"machine": "half", "product": "q", "algorithm": "12x", "microseconds": 1.0}]})";
  EXPECT_NE(message_of(half).find("'12x'"), std::string::npos);
  EXPECT_FALSE(find_product_choice("half", "p").has_value());
}

}  // namespace
}  // namespace photon
