#include "data/samples.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "data_fixture.hpp"
#include "storage/hdf5.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::uint64_t block = 65536;

TEST(MixtureOrder, OneFileGivesEverySliceOnceAnEpochInANewOrder) {
  for (const std::uint64_t slices : {1U, 2U, 3U, 17U, 256U, 1000U}) {
    const MixtureOrder order({slices}, {2.5}, 7);
    std::vector<std::vector<std::uint64_t>> epochs;
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<std::uint64_t> seen;
      for (std::uint64_t i = 0; i < slices; ++i) {
        const SampleRef ref = order.at(epoch * slices + i);
        EXPECT_EQ(ref.file, 0U);
        EXPECT_EQ(ref.epoch, epoch);
        seen.push_back(ref.slice);
      }
      EXPECT_EQ(std::set<std::uint64_t>(seen.begin(), seen.end()).size(), slices);
      EXPECT_EQ(*std::max_element(seen.begin(), seen.end()), slices - 1);
      epochs.push_back(seen);
    }
    if (slices > 16) {
      EXPECT_NE(epochs[0], epochs[1]);
      EXPECT_NE(epochs[1], epochs[2]);
      EXPECT_FALSE(std::is_sorted(epochs[0].begin(), epochs[0].end()));
    }
  }
}

TEST(MixtureOrder, IsAFunctionOfSeedAndIndexAlone) {
  const std::vector<std::uint64_t> slices{100, 2000, 30};
  const MixtureOrder a(slices, {1, 2, 3}, 11);
  const MixtureOrder b(slices, {10, 20, 30}, 11);  // weights are relative
  const MixtureOrder other(slices, {1, 2, 3}, 12);
  int equal = 0;
  for (std::uint64_t i = 1000; i-- > 0;) {
    EXPECT_EQ(a.at(i).file, b.at(i).file);
    EXPECT_EQ(a.at(i).slice, b.at(i).slice);
    EXPECT_EQ(a.at(i).epoch, b.at(i).epoch);
    equal += a.at(i).file == other.at(i).file && a.at(i).slice == other.at(i).slice ? 1 : 0;
  }
  EXPECT_LT(equal, 100);
}

TEST(MixtureOrder, BlocksHoldTheWeightsSharesAndFilesTheirEpochs) {
  const std::vector<std::uint64_t> slices{7, 5000, 100000};
  const MixtureOrder order(slices, {0.25, 0.5, 0.25}, 3);
  std::map<std::size_t, std::uint64_t> counts;
  std::map<std::pair<std::size_t, std::uint64_t>, std::map<std::uint64_t, int>>
      visits;  // (file, epoch) -> slice -> times
  std::uint64_t early = 0;
  for (std::uint64_t i = 0; i < 2 * block; ++i) {
    const SampleRef ref = order.at(i);
    ASSERT_LT(ref.slice, slices[ref.file]);
    ++counts[ref.file];
    if (i < 1000 && ref.file == 1) ++early;
    ++visits[{ref.file, ref.epoch}][ref.slice];
  }
  EXPECT_EQ(counts[0], block / 2);
  EXPECT_EQ(counts[1], block);
  EXPECT_EQ(counts[2], block / 2);
  EXPECT_NEAR(static_cast<double>(early), 500, 80);  // five standard deviations: well mixed from the start
  for (const auto& [key, slices_seen] : visits) {
    const auto [file, epoch] = key;
    const bool complete = (epoch + 1) * slices[file] <= counts[file];
    EXPECT_TRUE(!complete || slices_seen.size() == slices[file]);
    for (const auto& [slice, times] : slices_seen) ASSERT_EQ(times, 1) << "file " << file << " slice " << slice;
  }
}

TEST(MixtureOrder, SmallWeightsStillAppear) {
  const MixtureOrder order({10, 10, 10}, {1e-12, 1.0, 1.0 / 3}, 1);
  std::map<std::size_t, std::uint64_t> counts;
  for (std::uint64_t i = 0; i < block; ++i) ++counts[order.at(i).file];
  EXPECT_EQ(counts[0], 1U);
  EXPECT_NEAR(static_cast<double>(counts[1]), 0.75 * block, 2);
}

TEST(MixtureOrder, ReachesHugeIndicesAtOnce) {
  const MixtureOrder order({std::uint64_t{1} << 40, 3}, {3, 1}, 5);
  const std::uint64_t far = std::uint64_t{1} << 60;
  std::set<std::uint64_t> slices;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const SampleRef ref = order.at(far + i);
    if (ref.file != 0) continue;
    EXPECT_EQ(ref.epoch, (far / block * (block / 4 * 3)) >> 40);
    slices.insert(ref.slice);
  }
  EXPECT_GT(slices.size(), 650U);
}

TEST(MixtureOrder, RefusesWeightsThatAreNoShares) {
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_ERROR(MixtureOrder({5, 5}, {1.0, weight}, 0), InputError, "of data file 1 cannot be used");
  }
}

class SamplesTest : public ::testing::Test {
 protected:
  std::string data(const std::string& name, const std::string& text, const std::string& tokenizer = "byte") {
    testing::write_bytes(folder_ / (name + ".txt"), text);
    PrepareOptions options = testing::byte_options(folder_ / name, {folder_ / (name + ".txt")});
    options.tokenizer = tokenizer == "byte" ? "byte" : "";
    options.train_vocab = tokenizer == "byte" ? 0 : 280;
    prepare(options);
    return (folder_ / name / "train.h5").string();
  }
  testing::TemporaryFolder folder_;
};

TEST_F(SamplesTest, AreTheSlicesOfTheirFiles) {
  std::string text;
  for (int i = 0; i < 1003; ++i) text += static_cast<char>(i % 256);
  const std::string a = data("a", text);
  const std::string b = data("b", std::string(100, 'b'));
  const Samples samples({{a, 1.0}, {b, 1.0}}, 50, 9, 259);
  EXPECT_EQ(samples.num_slices(), 20U + 2U);  // 1004 and 101 tokens: what is left over is dropped
  EXPECT_EQ(samples.sequence_length(), 50);
  std::set<std::pair<std::size_t, std::uint64_t>> seen;
  std::vector<std::int32_t> tokens(50);
  std::vector<std::uint8_t> mask(50);
  for (std::uint64_t i = 0; i < 200; ++i) {
    const SampleRef ref = samples.at(i);
    seen.insert({ref.file, ref.slice});
    samples.read(i, tokens.data(), mask.data());
    EXPECT_EQ(mask, std::vector<std::uint8_t>(50, 1));
    for (std::uint64_t j = 0; j < 50; ++j) {
      const std::int32_t expected = ref.file == 1 ? 'b' : static_cast<unsigned char>(text[ref.slice * 50 + j]);
      ASSERT_EQ(tokens[j], expected);
    }
  }
  EXPECT_EQ(seen.size(), 22U);
  samples.read(std::uint64_t{1} << 62, tokens.data(), nullptr);
}

TEST_F(SamplesTest, RefuseFilesThatDoNotFit) {
  const std::string a = data("a", std::string(99, 'a'));
  EXPECT_NO_THROW(Samples({{a, 1.0}}, 100, 0, 259));
  EXPECT_ERROR(Samples({{a, 1.0}}, 101, 0, 259), InputError, "it holds 100 tokens, and a sample is 101");
  EXPECT_ERROR(Samples({{a, 1.0}}, 10, 0, 258), InputError, "its vocabulary has 259 ids, the model's 258");
  EXPECT_ERROR(Samples({}, 10, 0, 259), InputError, "there is no data");
  EXPECT_ERROR(Samples({{a, 1.0}}, 0, 0, 259), InputError, "sequence_length of 0");
  EXPECT_ERROR(Samples({{"missing.h5", 1.0}}, 10, 0, 259), InputError, "missing.h5");
  std::string text;
  for (int i = 0; i < 200; ++i) text += "words and words and more words " + std::to_string(i) + "\n";
  const std::string pieces = data("pieces", text, "sentencepiece");
  EXPECT_ERROR(Samples({{a, 1.0}, {pieces, 1.0}}, 10, 0, 300), InputError, "different tokenizers");
}

}  // namespace
}  // namespace photon
