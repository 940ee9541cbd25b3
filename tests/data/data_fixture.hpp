// What the tests of data share: compressed files, and data files read back.
#pragma once

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "data/prepare.hpp"
#include "testing/temporary.hpp"
#include "tokenizer/tokenizer.hpp"

namespace photon::testing {

inline std::string gzip(const std::string& bytes) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&z, bytes.size()), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  z.avail_in = static_cast<uInt>(bytes.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - z.avail_out);
  deflateEnd(&z);
  return out;
}

inline std::string zstd(const std::string& bytes) {
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 3));
  return out;
}

inline std::vector<std::int32_t> tokens_of(const TokenFile& file) {
  std::vector<std::int32_t> tokens(file.num_tokens());
  file.read(0, file.num_tokens(), tokens.data());
  return tokens;
}

// The text of each document of a data file; fails unless every document ends in eos.
inline std::vector<std::string> documents_of(const std::filesystem::path& path, const Tokenizer& tokenizer) {
  const TokenFile file = TokenFile::open(path);
  const auto tokens = tokens_of(file);
  const auto offsets = file.document_offsets();
  std::vector<std::string> documents;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    EXPECT_EQ(tokens[offsets[i + 1] - 1], tokenizer.eos());
    documents.push_back(tokenizer.decode({tokens.data() + offsets[i], offsets[i + 1] - offsets[i] - 1}));
  }
  return documents;
}

inline PrepareOptions byte_options(const std::filesystem::path& output, std::vector<std::filesystem::path> files) {
  PrepareOptions options;
  options.tokenizer = "byte";
  options.output = output;
  options.files = std::move(files);
  options.threads = 2;
  return options;
}

}  // namespace photon::testing
