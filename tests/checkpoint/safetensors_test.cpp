#include "checkpoint/safetensors.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>

#include "support/error.hpp"
#include "tensor/half.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {
namespace fs = std::filesystem;
using testing::TemporaryFolder;

std::string file_bytes(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  return bytes + header + data;
}

std::string raw(const std::vector<std::uint16_t>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(std::uint16_t)};
}

TEST(Safetensors, F32ComesBackBitForBit) {
  const TemporaryFolder folder;
  const std::vector<float> a = {1.0F, -0.0F, std::numeric_limits<float>::quiet_NaN(), 1e-42F, 3.5F, 7.0F};
  const std::vector<float> b = {2.0F};
  write_safetensors(folder / "x", {{"a", {2, 3}, a.data()}, {"b", {}, b.data()}, {"none", {0, 4}, nullptr}}, DType::f32,
                    {{"key", "value"}});
  const SafetensorsFile file(folder / "x");
  EXPECT_EQ(file.metadata().at("key"), "value");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.entries().size(), 3U);
  for (const SafetensorsEntry& entry : file.entries()) {
    std::vector<float> back(static_cast<std::size_t>(entry.numel()));
    file.read(entry, back.data());
    const std::vector<float>& expected = entry.name == "a" ? a : b;
    ASSERT_LE(back.size(), expected.size()) << entry.name;
    const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };
    for (std::size_t i = 0; i < back.size(); ++i) EXPECT_EQ(bits(back[i]), bits(expected[i])) << entry.name;
    EXPECT_EQ(entry.begin % 4, 0U);
  }
  // The length of the header is a multiple of 8.
  EXPECT_EQ(testing::read_bytes(folder / "x")[0] % 8, 0);
}

TEST(Safetensors, WritesBf16RoundedToNearestEven) {
  const TemporaryFolder folder;
  const std::vector<float> values = {1.0F, 1.00390625F, 1.01171875F, -3.14159F};  // the middle two lie half-way
  write_safetensors(folder / "x", {{"a", {4}, values.data()}}, DType::bf16, {});
  const SafetensorsFile file(folder / "x");
  EXPECT_EQ(file.entries()[0].dtype, "BF16");
  std::vector<float> back(4);
  file.read(file.entries()[0], back.data());
  EXPECT_EQ(back, (std::vector<float>{1.0F, 1.0F, 1.015625F, -3.140625F}));
}

TEST(Safetensors, ReadsF16AndBf16Exactly) {
  const TemporaryFolder folder;
  testing::write_bytes(folder / "x", file_bytes(R"({"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},)"
                                                R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})",
                                                raw({0x3c00, 0xc000, 0x0001, 0x7bff, 0x3f80, 0xc040})));
  const SafetensorsFile file(folder / "x");
  std::vector<float> h(4);
  std::vector<float> b(2);
  file.read(file.entries()[0], h.data());
  file.read(file.entries()[1], b.data());
  EXPECT_EQ(h, (std::vector<float>{1.0F, -2.0F, 0x1p-24F, 65504.0F}));
  EXPECT_EQ(b, (std::vector<float>{1.0F, -3.0F}));
}

TEST(Safetensors, RefusesEveryKindOfBadFile) {
  struct Case {
    std::string header, data, message;
  };
  const std::string four(4, 'x');
  const std::string eight(8, 'x');
  const std::vector<Case> cases = {
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", four, "beyond the end"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", eight, "4 bytes follow the last tensor"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight, "gap before tensor 'a'"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       four, "overlaps"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       eight, "overlaps"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", four, "needs 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", four, "offsets 4 .. 0"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", four, "is not a count"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", four, "is not a count"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}})", four, "larger than any file"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}})", four, "needs 4 bytes"},
      {R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}})", four, "unknown dtype 'Q4'"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       four, "'a' appears twice"},
      {R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", four, "'shape' appears twice"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", four, "must have exactly"},
      {R"({"a":[1]})", four, "must have exactly"},
      {R"({"__metadata__":{"k":1}})", "", "is no string"},
      {R"({"a":)", four, "JSON is damaged"},
      {"[1]", "", "does not begin with '{'"},
      {"", "", "does not begin with '{'"},
  };
  const TemporaryFolder folder;
  for (const Case& c : cases) {
    testing::write_bytes(folder / "x", file_bytes(c.header, c.data));
    EXPECT_ERROR(SafetensorsFile(folder / "x"), InputError, c.message);
  }
  testing::write_bytes(folder / "x", "\x08\x00\x00");
  EXPECT_ERROR(SafetensorsFile(folder / "x"), InputError, "too short");
  testing::write_bytes(folder / "x", std::string("\x10\x00\x00\x00\x00\x00\x00\x00{}", 10));
  EXPECT_ERROR(SafetensorsFile(folder / "x"), InputError, "longer than the file");
  testing::write_bytes(folder / "x", std::string(8, '\xff') + "{}");
  EXPECT_ERROR(SafetensorsFile(folder / "x"), InputError, "more than 100000000");
  EXPECT_ERROR(SafetensorsFile(folder / "none"), InputError, "No such file");
  EXPECT_ERROR(SafetensorsFile(folder.path()), InputError, "regular file");
}

TEST(Safetensors, OtherTypesCanBeListedButNotRead) {
  const TemporaryFolder folder;
  testing::write_bytes(folder / "x",
                       file_bytes(R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", std::string(8, '\0')));
  const SafetensorsFile file(folder / "x");
  std::vector<float> out(1);
  EXPECT_ERROR(file.read(file.entries()[0], out.data()), InputError, "tensor 'a' is I64");
}

class Sharded : public ::testing::Test {
 protected:
  Sharded() {
    for (std::size_t i = 0; i < 30; ++i) values_.push_back(static_cast<float>(i));
    write_sharded(folder_.path(),
                  {{"a", {10}, values_.data()}, {"b", {2, 5}, values_.data() + 10}, {"c", {10}, values_.data() + 20}},
                  DType::f32, {}, 80);
  }
  TemporaryFolder folder_;
  std::vector<float> values_;
};

TEST_F(Sharded, SplitsAboveTheLimitAndReadsBack) {
  EXPECT_EQ(testing::names_in(folder_.path()),
            (std::vector<std::string>{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                      "model.safetensors.index.json"}));
  const std::string index = testing::read_bytes(folder_ / "model.safetensors.index.json");
  EXPECT_NE(index.find("\"total_size\": 120"), std::string::npos) << index;
  const WeightFiles files(folder_.path());
  std::vector<float> back(10);
  files.read("c", back.data());
  EXPECT_EQ(back, std::vector<float>(values_.begin() + 20, values_.end()));
  std::int64_t checked = 0;
  EXPECT_TRUE(files.damaged(checked).empty());
  EXPECT_EQ(checked, 3);
}

TEST_F(Sharded, NamesADamagedTensor) {
  testing::flip_byte(folder_ / "model-00002-of-00002.safetensors", -1);
  const WeightFiles files(folder_.path());
  std::vector<float> back(10);
  EXPECT_ERROR(files.read("c", back.data()), InputError, "tensor 'c'");
  EXPECT_NO_THROW(files.read("a", back.data()));
  std::int64_t checked = 0;
  EXPECT_EQ(files.damaged(checked), (std::vector<std::string>{"c"}));
}

TEST_F(Sharded, RefusesAnIndexThatLies) {
  const fs::path index = folder_ / "model.safetensors.index.json";
  const auto with = [&](const std::string& map) { testing::write_bytes(index, R"({"weight_map":{)" + map + "}}"); };
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string second = "model-00002-of-00002.safetensors";
  with(R"("a":")" + first + R"(","b":")" + second + R"(","c":")" + second + "\"");
  EXPECT_ERROR(WeightFiles(folder_.path()), InputError, "lacks tensor 'b'");
  with(R"("a":")" + first + R"(","c":")" + second + "\"");
  EXPECT_ERROR(WeightFiles(folder_.path()), InputError, "does not list its tensor 'b'");
  with(R"("a":"../x.safetensors")");
  EXPECT_ERROR(WeightFiles(folder_.path()), InputError, "no plain file name");
  with(R"("a":7)");
  EXPECT_ERROR(WeightFiles(folder_.path()), InputError, "damaged");
  testing::write_bytes(index, "[]");
  EXPECT_ERROR(WeightFiles(folder_.path()), InputError, "no weight_map");
  fs::remove(index);
  EXPECT_ERROR(WeightFiles(folder_.path()), InputError, "holds neither");
  write_sharded(folder_.path(), {{"a", {10}, values_.data()}}, DType::f32, {});
  EXPECT_NO_THROW(WeightFiles(folder_.path()));
  with(R"("a":"x")");
  EXPECT_ERROR(WeightFiles(folder_.path()), InputError, "holds both");
}

}  // namespace
}  // namespace photon
