#include "data/dataset.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "data/token_file_writer.hpp"
#include "storage/hdf5.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

InputError not_a_data_file(const std::filesystem::path& path, std::string_view why) {
  return InputError(fmt::format("{} cannot be used as data", path.string()), why,
                    "make it again with `photon prepare`");
}

void check_version(const Hdf5File& file, const std::filesystem::path& path) {
  if (!file.has_attribute("format_version") || !file.has("/tokens")) {
    throw not_a_data_file(path, "it is not a data file of photon");
  }
  const std::int64_t version = file.attribute_int("format_version");
  if (version > data_format_version || version < 1) {
    throw InputError(
        fmt::format("{} cannot be used as data", path.string()),
        fmt::format("its format_version is {}, and this photon reads up to {}", version, data_format_version),
        "use a newer photon, or prepare the data with this one");
  }
}

// The file offset of a 1-D contiguous data set that lies wholly inside the file.
std::size_t mapped_offset(const Hdf5File& file, const std::string& name, std::uint64_t count, std::size_t file_bytes,
                          const std::filesystem::path& path) {
  const Shape shape = file.shape(name);
  if (shape.rank() != 1 || shape[0] != static_cast<std::int64_t>(count)) {
    throw not_a_data_file(path, fmt::format("{} has the shape {} instead of [{}]", name, shape.str(), count));
  }
  const std::int64_t offset = file.file_offset(name);
  if (offset < 0) throw not_a_data_file(path, fmt::format("{} is not stored contiguously", name));
  const std::uint64_t bytes = count * size_of(file.dtype(name));
  if (static_cast<std::uint64_t>(offset) + bytes > file_bytes) throw not_a_data_file(path, "the file is cut short");
  return static_cast<std::size_t>(offset);
}

const char* map_file(const std::filesystem::path& path, std::size_t bytes) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* map = descriptor < 0 ? MAP_FAILED : ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  const int error = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (map == MAP_FAILED) throw Error(fmt::format("cannot map {}", path.string()), std::strerror(error), "");
  return static_cast<const char*>(map);
}

// Widens ids; returns the largest.
template <class T>
std::int64_t widen(const char* from, std::uint64_t begin, std::uint64_t count, std::int32_t* to) {
  T largest = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    T id;
    std::memcpy(&id, from + (begin + i) * sizeof(T), sizeof(T));
    largest = std::max(largest, id);
    to[i] = static_cast<std::int32_t>(id);
  }
  return largest;
}

}  // namespace

TokenFile TokenFile::open(const std::filesystem::path& path) {
  TokenFile f;
  f.path_ = path;
  const Hdf5File file = Hdf5File::open(path);
  check_version(file, path);
  f.num_tokens_ = static_cast<std::uint64_t>(file.attribute_int("num_tokens"));
  f.num_bytes_ = static_cast<std::uint64_t>(file.attribute_int("num_bytes"));
  f.vocab_size_ = file.attribute_int("vocab_size");
  f.tokenizer_ = file.attribute_text("tokenizer");
  f.tokenizer_hash_ = file.attribute_text("tokenizer_hash");
  f.checksum_ = file.has_attribute("tokens_checksum") ? file.attribute_text("tokens_checksum") : "";
  f.dtype_ = file.dtype("/tokens");
  if (f.dtype_ != DType::u16 && f.dtype_ != DType::u32) {
    throw not_a_data_file(path, fmt::format("/tokens holds {}, not u16 or u32", name_of(f.dtype_)));
  }
  const Shape offsets = file.shape("/document_offsets");
  if (offsets.rank() != 1 || offsets[0] < 1 || file.dtype("/document_offsets") != DType::u64) {
    throw not_a_data_file(path, "/document_offsets is not a list of u64");
  }
  f.num_documents_ = static_cast<std::uint64_t>(offsets[0] - 1);
  if (f.num_tokens_ == 0) throw not_a_data_file(path, "it holds no tokens");

  const auto file_bytes = static_cast<std::size_t>(std::filesystem::file_size(path));
  const std::size_t tokens_at = mapped_offset(file, "/tokens", f.num_tokens_, file_bytes, path);
  const bool masked = file.has("/loss_mask");
  if (masked && file.dtype("/loss_mask") != DType::u8) throw not_a_data_file(path, "/loss_mask is not u8");
  const std::size_t mask_at = masked ? mapped_offset(file, "/loss_mask", f.num_tokens_, file_bytes, path) : 0;
  f.map_ = map_file(path, file_bytes);
  f.map_bytes_ = file_bytes;
  f.tokens_ = f.map_ + tokens_at;
  if (masked) f.mask_ = reinterpret_cast<const std::uint8_t*>(f.map_ + mask_at);
  return f;
}

TokenFile::~TokenFile() {
  unmap();
}

void TokenFile::unmap() {
  if (map_ != nullptr) ::munmap(const_cast<char*>(map_), map_bytes_);
  map_ = nullptr;
}

TokenFile::TokenFile(TokenFile&& other) noexcept {
  *this = std::move(other);
}

TokenFile& TokenFile::operator=(TokenFile&& other) noexcept {
  if (this == &other) return *this;
  unmap();
  path_ = std::move(other.path_);
  num_tokens_ = other.num_tokens_;
  num_bytes_ = other.num_bytes_;
  num_documents_ = other.num_documents_;
  vocab_size_ = other.vocab_size_;
  tokenizer_ = std::move(other.tokenizer_);
  tokenizer_hash_ = std::move(other.tokenizer_hash_);
  checksum_ = std::move(other.checksum_);
  dtype_ = other.dtype_;
  map_ = std::exchange(other.map_, nullptr);
  map_bytes_ = other.map_bytes_;
  tokens_ = std::exchange(other.tokens_, nullptr);
  mask_ = std::exchange(other.mask_, nullptr);
  return *this;
}

void TokenFile::read(std::uint64_t begin, std::uint64_t count, std::int32_t* tokens, std::uint8_t* mask) const {
  PHOTON_EXPECT(begin <= num_tokens_ && count <= num_tokens_ - begin, "tokens {} to {} of {}", begin, begin + count,
                num_tokens_);
  const std::int64_t largest = dtype_ == DType::u16 ? widen<std::uint16_t>(tokens_, begin, count, tokens)
                                                    : widen<std::uint32_t>(tokens_, begin, count, tokens);
  if (count > 0 && largest >= vocab_size_) {
    throw Error(fmt::format("{} is damaged", path_.string()),
                fmt::format("it holds the id {}, and its vocabulary has {}", largest, vocab_size_),
                "check it with `photon verify`, and prepare it again");
  }
  if (mask == nullptr) return;
  for (std::uint64_t i = 0; i < count; ++i) mask[i] = mask_ == nullptr || mask_[begin + i] != 0 ? 1 : 0;
}

std::vector<std::uint64_t> TokenFile::document_offsets() const {
  std::vector<std::uint64_t> offsets(num_documents_ + 1);
  Hdf5File::open(path_).read("/document_offsets",
                             host_view(offsets.data(), Shape{static_cast<std::int64_t>(offsets.size())}));
  return offsets;
}

void TokenFile::check_vocabulary(std::int64_t model_vocab_size) const {
  if (vocab_size_ <= model_vocab_size) return;
  throw InputError(
      fmt::format("{} does not fit the model", path_.string()),
      fmt::format("its vocabulary has {} ids, the model's {}", vocab_size_, model_vocab_size),
      fmt::format("set model.vocab_size to {}, or prepare the text with the model's tokenizer", vocab_size_));
}

void TokenFile::verify() const {
  const auto damaged = [&](std::string_view why) {
    return Error(fmt::format("{} is damaged", path_.string()), why, "prepare it again");
  };
  const std::uint64_t bytes = num_tokens_ * size_of(dtype_);
  if (!checksum_.empty() && checksum_text(checksum(tokens_, bytes)) != checksum_) {
    throw damaged("the checksum of /tokens differs from the stored one");
  }
  const std::vector<std::uint64_t> offsets = document_offsets();
  if (offsets.front() != 0 || offsets.back() != num_tokens_ || !std::is_sorted(offsets.begin(), offsets.end())) {
    throw damaged("/document_offsets do not run from 0 up to the number of tokens");
  }
  std::vector<std::int32_t> block(std::size_t{1} << 16);
  for (std::uint64_t begin = 0; begin < num_tokens_; begin += block.size()) {
    read(begin, std::min<std::uint64_t>(block.size(), num_tokens_ - begin), block.data());
  }
}

}  // namespace photon
