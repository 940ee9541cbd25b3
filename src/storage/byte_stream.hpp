// The bytes of an input file, decompressed on the way.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <istream>
#include <memory>
#include <span>

#include "support/error.hpp"

namespace photon {

// What a data file remembers of an input: the file as it lies on disk, compressed or not.
struct SourceDigest {
  std::filesystem::path file;
  std::uint64_t bytes = 0;
  std::uint64_t xxh3 = 0;
};

// A gzip member or zstd frame that ends with the file, before it is whole.
class CutShort : public InputError {
 public:
  using InputError::InputError;
};

// Ends the waiting of a reader in another thread: what is read from a pipe with it is at its end once stop() was
// called.
class ReadStop {
 public:
  ReadStop();
  ~ReadStop();
  ReadStop(const ReadStop&) = delete;
  ReadStop& operator=(const ReadStop&) = delete;
  void stop() noexcept;
  int descriptor() const { return descriptor_; }  // readable from then on

 private:
  int descriptor_;
};

// gzip (several members too) and zstd (several frames too) are known by their first bytes, not by the name; a name that
// ends in .gz or .zst must keep its promise.
class ByteStream {
 public:
  // `progress` counts the bytes read from disk. Errors: InputError when the file cannot be read or is not what its name
  // says.
  static std::unique_ptr<ByteStream> open(const std::filesystem::path& file, std::atomic<std::uint64_t>& progress,
                                          const ReadStop* stop = nullptr);
  static std::unique_ptr<ByteStream> open_stdin(std::atomic<std::uint64_t>& progress, const ReadStop* stop = nullptr);
  virtual ~ByteStream() = default;

  // Fills `out` from its front; less than asked for only at the end, where it gives 0. Errors: InputError naming the
  // file when it is damaged, CutShort when its end is missing.
  std::size_t read(std::span<char> out);
  // The same, but gives what is there: from a pipe, a line as soon as it was written. 0 only at the end.
  virtual std::size_t read_some(std::span<char> out) = 0;
  // Bytes on disk up to the end of the last whole member or frame that was read; of a plain file, all that was read.
  virtual std::uint64_t whole_bytes() const = 0;
  // Complete once read() has given 0.
  virtual SourceDigest digest() const = 0;
};

// A text file, decompressed, as a stream of lines; "-" is stdin. Reading it throws the stream's own InputError where
// the file is damaged or cut short. Errors: InputError when it cannot be read.
// `stop`, where given, outlives the stream.
std::unique_ptr<std::istream> open_text(const std::filesystem::path& file, const ReadStop* stop = nullptr);

}  // namespace photon
