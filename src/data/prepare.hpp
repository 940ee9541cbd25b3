// From text files to data files (docs/data.md): documents are read, tokenised on all cores and stored in their order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/token_file_writer.hpp"

namespace photon {

struct PrepareOptions {
  std::vector<std::filesystem::path> files;
  std::filesystem::path output;       // a folder; made if missing
  std::string tokenizer;              // "byte" or a SentencePiece model's path; empty with train_vocab
  std::int64_t train_vocab = 0;       // > 0: train a SentencePiece vocabulary of that size on the files first
  double val_fraction = 0;            // share of the documents (by hash) that go to val.h5; [0, 1)
  std::int64_t max_bad = 0;           // JSONL lines that may be skipped
  int threads = 0;                    // 0: one a core
  bool force = false;                 // replace what is in the folder
  std::size_t batch_bytes = 1 << 20;  // text read at once
};

struct PrepareSummary {
  SplitSummary train;
  SplitSummary val;  // no file when there is none
  std::string tokenizer;
  std::int64_t vocab_size = 0;
  std::uint64_t empty_documents = 0;
  std::uint64_t bad_lines = 0;
  double seconds = 0;
};

// Writes train.h5, val.h5 (if val_fraction > 0) and the tokenizer's file into the output folder. train.h5 appears last,
// so where it is, everything is. Errors: InputError for bad options, unreadable input, too many bad lines, an output
// that is already there; nothing is published then.
PrepareSummary prepare(const PrepareOptions& options);

// One JSON object.
std::string to_json(const PrepareSummary& summary);

}  // namespace photon
