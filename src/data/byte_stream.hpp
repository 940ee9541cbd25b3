// The bytes of an input file, decompressed on the way.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace photon {

// What a data file remembers of an input: the file as it lies on disk, compressed or not.
struct SourceDigest {
  std::filesystem::path file;
  std::uint64_t bytes = 0;
  std::uint64_t xxh3 = 0;
};

// gzip (several members too) and zstd (several frames too) are known by their first bytes, not by the name; a name that
// ends in .gz or .zst must keep its promise.
class ByteStream {
 public:
  // `progress` counts the bytes read from disk. Errors: InputError when the file cannot be read or is not what its name
  // says.
  static std::unique_ptr<ByteStream> open(const std::filesystem::path& file, std::atomic<std::uint64_t>& progress);
  virtual ~ByteStream() = default;

  // Fills `out` from its front; less than asked for only at the end, where it gives 0. Errors: InputError naming the
  // file when it is damaged or cut short.
  virtual std::size_t read(std::span<char> out) = 0;
  // Complete once read() has given 0.
  virtual SourceDigest digest() const = 0;
};

}  // namespace photon
