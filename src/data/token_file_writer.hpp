// Writing a data file: tokens were put one after another into a raw file while their number was unknown; this copies
// documents of it into an HDF5 file of known sizes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/types.hpp"

namespace photon {

inline constexpr std::int64_t data_format_version = 1;

// A document in the raw file.
struct RawDocument {
  std::uint64_t begin = 0;  // tokens before it
  std::uint64_t tokens = 0;
  std::uint64_t bytes = 0;  // of its text
  std::uint64_t hash = 0;   // of its text's first piece
  bool validation = false;  // which split it belongs to
  bool lacks_eos = false;   // the raw file has no eos after it; one is added
};

struct TokenFileHeader {
  std::string tokenizer;
  std::string tokenizer_hash;
  std::int64_t vocab_size = 0;
  std::int64_t eos = 0;
  std::string sources;  // JSON
};

struct SplitSummary {
  std::filesystem::path file;  // empty: not written
  std::uint64_t documents = 0;
  std::uint64_t tokens = 0;
  std::uint64_t bytes = 0;
};

// The narrowest type that holds every id: u16 up to 65,536 of them, else u32.
DType token_dtype(std::int64_t vocab_size);

// Writes the documents of one split, in order, to the new file `path`. Errors: Error when the disk fails.
SplitSummary write_token_file(const std::filesystem::path& path, const TokenFileHeader& header,
                              const std::filesystem::path& raw_tokens, const std::vector<RawDocument>& documents,
                              bool validation);

}  // namespace photon
