#include "data/dataset.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "data_fixture.hpp"
#include "storage/hdf5.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using testing::TemporaryFolder;
using testing::write_bytes;

// A data file written by hand, as another program might.
struct HandMade {
  std::int64_t version = 1;
  std::int64_t vocab_size = 1000;
  std::vector<std::uint32_t> tokens{};
  std::vector<std::uint8_t> mask{};
  std::string hash = "0123456789abcdef";

  void write(const std::filesystem::path& path) const {
    Hdf5File file = Hdf5File::create(path);
    const auto n = static_cast<std::int64_t>(tokens.size());
    if (token_dtype(vocab_size) == DType::u16) {
      const std::vector<std::uint16_t> narrow(tokens.begin(), tokens.end());
      file.write("/tokens", host_view(narrow.data(), Shape{n}));
    } else {
      file.write("/tokens", host_view(tokens.data(), Shape{n}));
    }
    const std::vector<std::uint64_t> offsets{0, tokens.size()};
    file.write("/document_offsets", host_view(offsets.data(), Shape{2}));
    if (!mask.empty()) file.write("/loss_mask", host_view(mask.data(), Shape{n}));
    file.set_attribute("format_version", version);
    file.set_attribute("tokenizer", std::string("byte"));
    file.set_attribute("tokenizer_hash", hash);
    file.set_attribute("vocab_size", vocab_size);
    file.set_attribute("num_tokens", n);
    file.set_attribute("num_bytes", n);
    file.close();
  }
};

std::vector<std::uint32_t> counting(std::size_t count) {
  std::vector<std::uint32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0U);
  return tokens;
}

TEST(TokenFile, MappedTokensEqualThoseReadThroughHdf5) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 31 % 251);
  write_bytes(folder / "a.txt", text);
  prepare(testing::byte_options(folder / "out", {folder / "a.txt"}));
  TokenFile file = TokenFile::open(folder / "out/train.h5");
  std::vector<std::uint16_t> stored(file.num_tokens());
  Hdf5File::open(file.path())
      .read("/tokens", host_view(stored.data(), Shape{static_cast<std::int64_t>(stored.size())}));
  EXPECT_EQ(testing::tokens_of(file), std::vector<std::int32_t>(stored.begin(), stored.end()));
  const TokenFile moved = std::move(file);
  std::vector<std::int32_t> some(7);
  std::vector<std::uint8_t> mask(7, 9);
  moved.read(1234, 7, some.data(), mask.data());
  for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(some[i], static_cast<unsigned char>(text[1234 + i]));
  EXPECT_EQ(mask, std::vector<std::uint8_t>(7, 1));
  EXPECT_FALSE(moved.has_loss_mask());
  EXPECT_EQ(moved.num_bytes(), 5000U);
  EXPECT_EQ(moved.document_offsets(), (std::vector<std::uint64_t>{0, 5001}));
  EXPECT_NO_THROW(moved.verify());
  EXPECT_THROW(moved.read(5000, 2, some.data()), ContractError);
  EXPECT_THROW(moved.read(~std::uint64_t{0}, 2, some.data()), ContractError);
}

TEST(TokenFile, WidthChangesAbove65536Ids) {
  EXPECT_EQ(token_dtype(259), DType::u16);
  EXPECT_EQ(token_dtype(65536), DType::u16);
  EXPECT_EQ(token_dtype(65537), DType::u32);
  const TemporaryFolder folder;
  for (const std::int64_t vocab : {std::int64_t{65536}, std::int64_t{65537}}) {
    HandMade made;
    made.vocab_size = vocab;
    made.tokens = {0, 1, static_cast<std::uint32_t>(vocab - 1), 40000};
    const auto path = folder / std::to_string(vocab);
    made.write(path);
    EXPECT_EQ(testing::tokens_of(TokenFile::open(path)),
              (std::vector<std::int32_t>{0, 1, static_cast<std::int32_t>(vocab - 1), 40000}));
  }
}

TEST(TokenFileWriter, WritesBothWidthsAndAddsTheMissingEos) {
  const TemporaryFolder folder;
  for (const std::int64_t vocab : {std::int64_t{65536}, std::int64_t{70000}}) {
    const auto eos = static_cast<std::int32_t>(vocab - 1);
    std::string raw;
    for (const std::int32_t id : {5, 6, 7, eos, 8, eos})
      raw.append(reinterpret_cast<const char*>(&id), size_of(token_dtype(vocab)));
    write_bytes(folder / "raw", raw);
    const std::vector<RawDocument> documents{
        {0, 2, 20, 0, false, true}, {2, 2, 11, 0, true, false}, {4, 2, 3, 0, false, false}};
    const TokenFileHeader header{"m", "h", vocab, eos, "[]"};
    const auto train = folder / ("train" + std::to_string(vocab));
    const SplitSummary summary = write_token_file(train, header, folder / "raw", documents, false);
    EXPECT_EQ(summary.tokens, 5U);
    EXPECT_EQ(summary.bytes, 23U);
    const TokenFile file = TokenFile::open(train);
    EXPECT_EQ(testing::tokens_of(file), (std::vector<std::int32_t>{5, 6, eos, 8, eos}));
    EXPECT_EQ(file.document_offsets(), (std::vector<std::uint64_t>{0, 3, 5}));
    EXPECT_NO_THROW(file.verify());
    const auto val = folder / ("val" + std::to_string(vocab));
    write_token_file(val, header, folder / "raw", documents, true);
    EXPECT_EQ(testing::tokens_of(TokenFile::open(val)), (std::vector<std::int32_t>{7, eos}));
  }
}

TEST(TokenFile, ALossMaskIsReadAlong) {
  const TemporaryFolder folder;
  HandMade made;
  made.tokens = counting(6);
  made.mask = {1, 0, 0, 1, 7, 0};
  made.write(folder / "a.h5");
  const TokenFile file = TokenFile::open(folder / "a.h5");
  EXPECT_TRUE(file.has_loss_mask());
  std::vector<std::int32_t> tokens(4);
  std::vector<std::uint8_t> mask(4);
  file.read(2, 4, tokens.data(), mask.data());
  EXPECT_EQ(tokens, (std::vector<std::int32_t>{2, 3, 4, 5}));
  EXPECT_EQ(mask, (std::vector<std::uint8_t>{0, 1, 1, 0}));
}

TEST(TokenFile, RefusesWhatIsNoDataFileOrDoesNotFit) {
  const TemporaryFolder folder;
  EXPECT_ERROR(TokenFile::open(folder / "missing.h5"), InputError, "missing.h5");
  write_bytes(folder / "text.h5", "no hdf5");
  EXPECT_ERROR(TokenFile::open(folder / "text.h5"), InputError, "text.h5");
  Hdf5File::create(folder / "other.h5").close();
  EXPECT_ERROR(TokenFile::open(folder / "other.h5"), InputError, "it is not a data file of photon");

  HandMade made;
  made.tokens = counting(1000);
  made.version = 2;
  made.write(folder / "newer.h5");
  EXPECT_ERROR(TokenFile::open(folder / "newer.h5"), InputError,
               "its format_version is 2, and this photon reads up to 1");

  made.version = 1;
  made.write(folder / "good.h5");
  const TokenFile good = TokenFile::open(folder / "good.h5");
  EXPECT_NO_THROW(good.check_vocabulary(1000));
  EXPECT_ERROR(good.check_vocabulary(999), InputError, "its vocabulary has 1000 ids, the model's 999");

  made.tokens[500] = 1000;
  made.write(folder / "range.h5");
  const TokenFile damaged = TokenFile::open(folder / "range.h5");
  std::vector<std::int32_t> tokens(10);
  EXPECT_NO_THROW(damaged.read(0, 10, tokens.data()));
  EXPECT_ERROR(damaged.read(495, 10, tokens.data()), Error, "it holds the id 1000, and its vocabulary has 1000");

  const std::string bytes = testing::read_bytes(folder / "good.h5");
  write_bytes(folder / "cut.h5", bytes.substr(0, bytes.size() - 100));
  EXPECT_ERROR(TokenFile::open(folder / "cut.h5"), InputError, "cut.h5");
}

TEST(TokenFile, VerifyFindsAFlippedByte) {
  const TemporaryFolder folder;
  write_bytes(folder / "a.txt", std::string(2000, 'a'));
  prepare(testing::byte_options(folder / "out", {folder / "a.txt"}));
  const auto path = folder / "out/train.h5";
  const auto offset = Hdf5File::open(path).file_offset("/tokens");
  ASSERT_NO_THROW(TokenFile::open(path).verify());
  testing::flip_byte(path, static_cast<std::ptrdiff_t>(offset) + 600);
  EXPECT_ERROR(TokenFile::open(path).verify(), Error, "the checksum of /tokens differs");
}

}  // namespace
}  // namespace photon
