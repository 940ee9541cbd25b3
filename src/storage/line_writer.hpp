// An output of lines that a job killed anywhere goes on with: plain, or compressed in whole gzip members or zstd
// frames.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace photon {

enum class Compression { none, gzip, zstd };
// By the file's ending: .gz, .zst, otherwise none.
Compression compression_of(const std::filesystem::path& file);
// "auto" (by the ending) | "none" | "gzip" | "zstd". Errors: InputError.
Compression parse_compression(const std::string& name, const std::filesystem::path& file);

// `text` as one gzip member or zstd frame; as it is for none.
std::string compress(std::string_view text, Compression compression);

// Appends lines to a file ("-": stdout). A plain line is written at once, whole. Compressed ones are collected and
// appended as a member (frame) of their own when they come to flush_bytes, when flush_interval has passed (see poll()),
// and at the end, so that a kill loses no more than these.
class LineWriter {
 public:
  static constexpr std::size_t flush_bytes = std::size_t{1} << 20;  // of text
  static constexpr std::chrono::seconds flush_interval{2};

  LineWriter() = default;
  // The file is made when missing. Errors: InputError when it cannot be opened, or another job writes to it.
  explicit LineWriter(const std::filesystem::path& path) : LineWriter(path, compression_of(path)) {}
  LineWriter(const std::filesystem::path& path, Compression compression);
  ~LineWriter();  // flushes; a failure to do so is lost
  LineWriter(LineWriter&& other) noexcept;
  LineWriter& operator=(LineWriter&& other) noexcept;

  // Drops what a kill left half written at the file's end: a line without its end, a member without its. Returns the
  // number of bytes dropped. Call it before the first write(). Errors: InputError when the file is damaged elsewhere,
  // or is not compressed as this writer compresses.
  std::int64_t recover();

  void write(std::string_view line);  // Errors: Error, e.g. when the disk is full, or stdout's reader has gone
  void flush();                       // what was written survives the process
  void poll();                        // flush() when it is time
  void sync();                        // flush(), and it survives the machine

  bool is_stdout() const { return path_ == "-"; }
  const std::filesystem::path& path() const { return path_; }
  Compression compression() const { return compression_; }

 private:
  void append(std::string_view bytes);
  std::int64_t whole_lines() const;
  std::int64_t whole_members() const;

  std::filesystem::path path_;
  Compression compression_ = Compression::none;
  int file_ = -1;
  std::string collected_;                         // lines not yet compressed
  std::chrono::steady_clock::time_point oldest_;  // when the first of them came
};

}  // namespace photon
