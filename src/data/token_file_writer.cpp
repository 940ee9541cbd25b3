#include "data/token_file_writer.hpp"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>

#include "storage/hdf5.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::size_t block_bytes = std::size_t{4} << 20;
// HDF5 keeps attributes in headers of limited size; a longer list of sources goes into a data set.
constexpr std::size_t max_attribute_bytes = 48 * 1024;

// Appends to the data set `tokens`, a block at a time, and hashes what goes by.
class TokenAppender {
 public:
  TokenAppender(Hdf5File& file, DType dtype) : file_(file), dtype_(dtype), hash_(XXH3_createState(), XXH3_freeState) {
    XXH3_64bits_reset(hash_.get());
    block_.reserve(block_bytes);
  }

  void append(std::ifstream& raw, std::uint64_t begin, std::uint64_t count) {
    const std::uint64_t width = size_of(dtype_);
    raw.seekg(static_cast<std::streamoff>(begin * width));
    for (std::uint64_t left = count * width; left > 0;) {
      const std::size_t before = block_.size();
      const std::size_t step = static_cast<std::size_t>(std::min<std::uint64_t>(left, block_bytes - before));
      block_.resize(before + step);
      if (!raw.read(block_.data() + before, static_cast<std::streamsize>(step))) {
        throw Error("cannot read the tokens back", "the temporary file is damaged or the disk fails",
                    "run prepare again");
      }
      left -= step;
      if (block_.size() == block_bytes) write();
    }
  }
  void append(const std::string& bytes) {
    block_ += bytes;
    if (block_.size() >= block_bytes) write();
  }
  std::uint64_t finish() {
    write();
    return XXH3_64bits_digest(hash_.get());
  }

 private:
  void write() {
    if (block_.empty()) return;
    const auto count = static_cast<std::int64_t>(block_.size() / size_of(dtype_));
    file_.write_rows("/tokens", written_, ConstTensorView(block_.data(), dtype_, Space::host, Shape{count}));
    XXH3_64bits_update(hash_.get(), block_.data(), block_.size());
    written_ += count;
    block_.clear();
  }

  Hdf5File& file_;
  DType dtype_;
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash_;
  std::string block_;
  std::int64_t written_ = 0;
};

void write_sources(Hdf5File& file, const std::string& sources) {
  if (sources.size() <= max_attribute_bytes) {
    file.set_attribute("sources", sources);
    return;
  }
  file.write("/sources",
             ConstTensorView(sources.data(), DType::u8, Space::host, Shape{static_cast<std::int64_t>(sources.size())}));
  file.set_attribute("sources", fmt::format(R"({{"dataset": "/sources", "xxh3": "{}"}})",
                                            checksum_text(checksum(sources.data(), sources.size()))));
}

}  // namespace

DType token_dtype(std::int64_t vocab_size) {
  return vocab_size <= 65536 ? DType::u16 : DType::u32;
}

SplitSummary write_token_file(const std::filesystem::path& path, const TokenFileHeader& header,
                              const std::filesystem::path& raw_tokens, const std::vector<RawDocument>& documents,
                              bool validation) {
  SplitSummary summary;
  summary.file = path;
  std::vector<std::uint64_t> offsets{0};
  for (const RawDocument& document : documents) {
    if (document.validation != validation) continue;
    summary.tokens += document.tokens + (document.lacks_eos ? 1 : 0);
    summary.bytes += document.bytes;
    offsets.push_back(summary.tokens);
  }
  summary.documents = offsets.size() - 1;

  const DType dtype = token_dtype(header.vocab_size);
  Hdf5File file = Hdf5File::create(path);
  file.create_dataset("/tokens", dtype, Shape{static_cast<std::int64_t>(summary.tokens)});
  std::ifstream raw(raw_tokens, std::ios::binary);
  TokenAppender appender(file, dtype);
  std::string eos(size_of(dtype), '\0');
  std::memcpy(eos.data(), &header.eos, eos.size());  // little endian, as everything photon writes
  for (std::size_t i = 0; i < documents.size();) {
    if (documents[i].validation != validation) {
      ++i;
      continue;
    }
    const std::uint64_t begin = documents[i].begin;
    std::uint64_t count = 0;
    bool lacks_eos = false;
    while (i < documents.size() && documents[i].validation == validation && !lacks_eos) {
      count += documents[i].tokens;
      lacks_eos = documents[i].lacks_eos;
      ++i;
    }
    appender.append(raw, begin, count);
    if (lacks_eos) appender.append(eos);
  }
  const std::uint64_t hash = appender.finish();
  file.write("/document_offsets", host_view(offsets.data(), Shape{static_cast<std::int64_t>(offsets.size())}));
  file.set_attribute("format_version", data_format_version);
  file.set_attribute("tokenizer", header.tokenizer);
  file.set_attribute("tokenizer_hash", header.tokenizer_hash);
  file.set_attribute("vocab_size", header.vocab_size);
  file.set_attribute("num_tokens", static_cast<std::int64_t>(summary.tokens));
  file.set_attribute("num_bytes", static_cast<std::int64_t>(summary.bytes));
  file.set_attribute("tokens_checksum", checksum_text(hash));
  write_sources(file, header.sources);
  file.close();
  return summary;
}

}  // namespace photon
