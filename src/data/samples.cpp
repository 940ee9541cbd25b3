#include "data/samples.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/error.hpp"
#include "support/random.hpp"

namespace photon {
namespace {

constexpr std::uint64_t block_samples = 65536;

// Shares of a block that add up to it: at least one each, then by weight, the largest remainders rounded up.
std::vector<std::uint64_t> shares_of(const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const auto num_files = weights.size();
  if (num_files > block_samples / 2) {
    throw InputError(fmt::format("{} data files are too many for a mixture", num_files),
                     fmt::format("at most {} can be mixed", block_samples / 2),
                     "prepare them together into fewer files");
  }
  std::vector<std::uint64_t> shares(num_files, 1);
  std::vector<std::pair<double, std::size_t>> remainders;
  std::uint64_t left = block_samples - num_files;
  const auto spread = static_cast<double>(left);
  for (std::size_t f = 0; f < num_files; ++f) {
    // What the weight asks for beyond the one that every file has.
    const double exact = std::max(0.0, weights[f] / sum * static_cast<double>(block_samples) - 1);
    const auto whole = std::min(left, static_cast<std::uint64_t>(std::min(exact, spread)));
    shares[f] += whole;
    left -= whole;
    remainders.emplace_back(exact - static_cast<double>(whole), f);
  }
  std::stable_sort(remainders.begin(), remainders.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  for (std::size_t i = 0; left > 0; i = (i + 1) % num_files, --left) ++shares[remainders[i].second];
  return shares;
}

std::vector<TokenFile> open_files(const std::vector<DataFile>& files, std::int64_t sequence_length,
                                  std::int64_t model_vocab_size) {
  if (files.empty())
    throw InputError("there is no data", "no data file is named", "set data.train to a file made by `photon prepare`");
  if (sequence_length < 1)
    throw InputError(fmt::format("a sequence_length of {} is too short", sequence_length), "", "");
  std::vector<TokenFile> opened;
  for (const DataFile& entry : files) {
    TokenFile file = TokenFile::open(entry.file);
    file.check_vocabulary(model_vocab_size);
    if (file.num_tokens() < static_cast<std::uint64_t>(sequence_length)) {
      throw InputError(fmt::format("{} is too short", entry.file),
                       fmt::format("it holds {} tokens, and a sample is {}", file.num_tokens(), sequence_length),
                       "lower train.sequence_length, or prepare more text");
    }
    if (!opened.empty() && file.tokenizer_hash() != opened.front().tokenizer_hash()) {
      throw InputError(
          fmt::format("{} and {} cannot be mixed", opened.front().path().string(), entry.file),
          fmt::format("they were made with different tokenizers, {} ({}) and {} ({})", opened.front().tokenizer(),
                      opened.front().tokenizer_hash(), file.tokenizer(), file.tokenizer_hash()),
          "prepare both with the same tokenizer");
    }
    opened.push_back(std::move(file));
  }
  return opened;
}

std::vector<std::uint64_t> slices_of(const std::vector<TokenFile>& files, std::int64_t sequence_length) {
  std::vector<std::uint64_t> slices;
  for (const TokenFile& file : files) slices.push_back(file.num_tokens() / static_cast<std::uint64_t>(sequence_length));
  return slices;
}

std::vector<double> weights_of(const std::vector<DataFile>& files) {
  std::vector<double> weights;
  for (const DataFile& file : files) weights.push_back(file.weight);
  return weights;
}

}  // namespace

MixtureOrder::MixtureOrder(std::vector<std::uint64_t> num_slices, const std::vector<double>& weights,
                           std::uint64_t seed)
    : num_slices_(std::move(num_slices)), seed_(seed) {
  PHOTON_EXPECT(num_slices_.size() == weights.size() && !weights.empty(), "{} files, {} weights", num_slices_.size(),
                weights.size());
  for (std::size_t f = 0; f < weights.size(); ++f) {
    PHOTON_EXPECT(num_slices_[f] > 0, "file {} has no slices", f);
    if (!(weights[f] > 0) || !std::isfinite(weights[f])) {
      throw InputError(fmt::format("the weight {} of data file {} cannot be used", weights[f], f),
                       "weights are relative shares of the samples", "give a number above 0, or leave the file out");
    }
  }
  const std::vector<std::uint64_t> shares = shares_of(weights);
  ends_.resize(shares.size());
  std::inclusive_scan(shares.begin(), shares.end(), ends_.begin());
}

SampleRef MixtureOrder::at(std::uint64_t index) const {
  SampleRef ref;
  std::uint64_t draw = index;
  if (ends_.size() > 1) {
    const std::uint64_t block = index / block_samples;
    const std::uint64_t stream = random_bits(seed_, hash_name("data mixture"), block);
    const std::uint64_t place = permute_index(seed_, stream, block_samples, index % block_samples);
    ref.file = static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), place) - ends_.begin());
    const std::uint64_t first = ref.file == 0 ? 0 : ends_[ref.file - 1];
    draw = block * (ends_[ref.file] - first) + (place - first);
  }
  const std::uint64_t slices = num_slices_[ref.file];
  ref.epoch = draw / slices;
  const std::uint64_t stream = random_bits(seed_, hash_name("data order") + ref.file, ref.epoch);
  ref.slice = permute_index(seed_, stream, slices, draw % slices);
  return ref;
}

Samples::Samples(const std::vector<DataFile>& files, std::int64_t sequence_length, std::uint64_t seed,
                 std::int64_t model_vocab_size)
    : files_(open_files(files, sequence_length, model_vocab_size)),
      sequence_length_(sequence_length),
      order_(slices_of(files_, sequence_length), weights_of(files), seed) {}

void Samples::read(std::uint64_t index, std::int32_t* tokens, std::uint8_t* mask) const {
  const SampleRef ref = at(index);
  const auto length = static_cast<std::uint64_t>(sequence_length_);
  files_[ref.file].read(ref.slice * length, length, tokens, mask);
}

std::uint64_t Samples::num_slices() const {
  const std::vector<std::uint64_t> slices = slices_of(files_, sequence_length_);
  return std::accumulate(slices.begin(), slices.end(), std::uint64_t{0});
}

}  // namespace photon
