// Which tokens the trainer sees when. A sample is one of the consecutive, non-overlapping slices of T tokens of a file
// (a shorter last one is dropped). The order is a pure function of (seed, index): nothing is stored, so any place in it
// is reached at once, however far, and by any number of ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.hpp"
#include "data/dataset.hpp"

namespace photon {

struct SampleRef {
  std::size_t file = 0;
  std::uint64_t epoch = 0;  // of that file
  std::uint64_t slice = 0;  // of that file
};

// The order of a weighted mixture. Samples come in blocks of 65,536; each file has a fixed share of every block, its
// weight's (rounded, at least one), at places that are drawn anew for each block. The draws of a file go through its
// slices in an order that is drawn anew for each of its epochs: every slice once in an epoch. (Inside a block of a
// mixture, the draws of two epochs of a file may mingle.) With one file, sample i is its draw i.
class MixtureOrder {
 public:
  // `num_slices` and `weights` have one entry a file. Errors: InputError for weights that are not positive numbers.
  MixtureOrder(std::vector<std::uint64_t> num_slices, const std::vector<double>& weights, std::uint64_t seed);

  SampleRef at(std::uint64_t index) const;  // O(log number of files)

 private:
  std::vector<std::uint64_t> num_slices_;
  std::vector<std::uint64_t> ends_;  // of each file's share of a block
  std::uint64_t seed_;
};

class Samples {
 public:
  // Opens and checks the files: each must hold at least one slice of `sequence_length` tokens, fit a model of
  // `model_vocab_size` ids, and have been made with the same tokenizer as the others. Errors: InputError otherwise.
  Samples(const std::vector<DataFile>& files, std::int64_t sequence_length, std::uint64_t seed,
          std::int64_t model_vocab_size);

  SampleRef at(std::uint64_t index) const { return order_.at(index); }
  // Sample `index`: tokens[0 .. T-1], and (unless null) mask[0 .. T-1], 1 where a token counts in the loss.
  void read(std::uint64_t index, std::int32_t* tokens, std::uint8_t* mask) const;

  std::int64_t sequence_length() const { return sequence_length_; }
  std::uint64_t num_slices() const;  // of all files: the samples of one pass over everything
  const std::vector<TokenFile>& files() const { return files_; }

 private:
  std::vector<TokenFile> files_;
  std::int64_t sequence_length_;
  MixtureOrder order_;
};

}  // namespace photon
