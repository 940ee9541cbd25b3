#include "storage/line_writer.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "storage/byte_stream.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr std::string_view gzip_magic = "\x1f\x8b\x08";
constexpr std::string_view zstd_magic = "\x28\xb5\x2f\xfd";

const char* described(Compression compression) {
  if (compression == Compression::none) return "plain text";
  return compression == Compression::gzip ? "gzip" : "zstd";
}

std::string gzip_member(std::string_view text) {
  z_stream z{};
  if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
    throw Error("zlib cannot start", "out of memory", "");
  }
  std::string member(deflateBound(&z, static_cast<uLong>(text.size())), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));  // zlib does not write there
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(member.data());
  z.avail_out = static_cast<uInt>(member.size());
  const int result = deflate(&z, Z_FINISH);
  member.resize(z.total_out);
  deflateEnd(&z);
  PHOTON_EXPECT(result == Z_STREAM_END, "deflate gave {}", result);
  return member;
}

std::string zstd_frame(std::string_view text) {
  const std::unique_ptr<ZSTD_CCtx, std::size_t (*)(ZSTD_CCtx*)> z(ZSTD_createCCtx(), ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(z.get(), ZSTD_c_checksumFlag, 1);
  std::string frame(ZSTD_compressBound(text.size()), '\0');
  const std::size_t size = ZSTD_compress2(z.get(), frame.data(), frame.size(), text.data(), text.size());
  if (ZSTD_isError(size) != 0) throw Error("zstd cannot compress", ZSTD_getErrorName(size), "");
  frame.resize(size);
  return frame;
}

std::string first_bytes(const std::filesystem::path& path, std::size_t count) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw_io_error("read", path, errno);
  std::string bytes(count, '\0');
  const ssize_t got = ::pread(file, bytes.data(), count, 0);
  ::close(file);
  if (got < 0) throw_io_error("read", path, errno);
  bytes.resize(static_cast<std::size_t>(got));
  return bytes;
}

}  // namespace

Compression compression_of(const std::filesystem::path& file) {
  if (file.extension() == ".gz") return Compression::gzip;
  if (file.extension() == ".zst") return Compression::zstd;
  return Compression::none;
}

Compression parse_compression(const std::string& name, const std::filesystem::path& file) {
  if (name == "auto") return compression_of(file);
  if (name == "none") return Compression::none;
  if (name == "gzip") return Compression::gzip;
  if (name == "zstd") return Compression::zstd;
  throw InputError(fmt::format("no compression is called '{}'", name), "photon knows gzip and zstd",
                   "use auto, none, gzip or zstd");
}

std::string compress(std::string_view text, Compression compression) {
  if (compression == Compression::none) return std::string(text);
  return compression == Compression::gzip ? gzip_member(text) : zstd_frame(text);
}

LineWriter::LineWriter(const std::filesystem::path& path, Compression compression)
    : path_(path), compression_(compression) {
  if (is_stdout()) {
    file_ = STDOUT_FILENO;
    return;
  }
  file_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) {
    throw InputError(fmt::format("cannot write {}", path.string()), std::strerror(errno), "choose another --output");
  }
  // File systems without locks are taken as they are.
  if (::flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(std::exchange(file_, -1));
    throw InputError(fmt::format("{} is in use", path.string()), "another photon writes to it",
                     "wait for it to end, or choose another --output");
  }
}

LineWriter::~LineWriter() {
  if (file_ < 0) return;
  try {
    flush();
  } catch (const std::exception&) {  // said by whoever flushes before
  }
  if (!is_stdout()) ::close(file_);
}

LineWriter::LineWriter(LineWriter&& other) noexcept
    : path_(std::move(other.path_)),
      compression_(other.compression_),
      file_(std::exchange(other.file_, -1)),
      collected_(std::exchange(other.collected_, {})),
      oldest_(other.oldest_) {}

LineWriter& LineWriter::operator=(LineWriter&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(compression_, other.compression_);
  std::swap(file_, other.file_);
  std::swap(collected_, other.collected_);
  std::swap(oldest_, other.oldest_);
  return *this;
}

std::int64_t LineWriter::recover() {
  std::error_code error;
  if (is_stdout() || !std::filesystem::is_regular_file(path_, error)) return 0;  // e.g. /dev/null, a named pipe
  const auto size = static_cast<std::int64_t>(std::filesystem::file_size(path_));
  if (size == 0) return 0;
  const std::string start = first_bytes(path_, zstd_magic.size());
  Compression found = Compression::none;
  if (start.starts_with(gzip_magic)) found = Compression::gzip;
  if (start.starts_with(zstd_magic)) found = Compression::zstd;
  const std::string_view expected = compression_ == Compression::gzip ? gzip_magic : zstd_magic;
  std::int64_t whole = 0;
  if (found == compression_) {
    whole = compression_ == Compression::none ? whole_lines() : whole_members();
  } else if (compression_ == Compression::none || start.size() >= expected.size() || !expected.starts_with(start)) {
    throw InputError(fmt::format("{} holds {}", path_.string(), described(found)),
                     fmt::format("this job writes {}", described(compression_)),
                     "choose another --output, or --output-compression as before");
  }
  if (whole < size && ::ftruncate(file_, static_cast<off_t>(whole)) != 0) throw_io_error("truncate", path_, errno);
  return size - whole;
}

// Bytes up to the last line's end.
std::int64_t LineWriter::whole_lines() const {
  const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw_io_error("read", path_, errno);
  const std::unique_ptr<const int, void (*)(const int*)> closed(&file, [](const int* open) { ::close(*open); });
  std::int64_t end = ::lseek(file, 0, SEEK_END);
  std::vector<char> block(std::size_t{1} << 16);
  while (end > 0) {
    const std::int64_t begin = std::max<std::int64_t>(0, end - static_cast<std::int64_t>(block.size()));
    const ssize_t got = ::pread(file, block.data(), static_cast<std::size_t>(end - begin), begin);
    if (got != end - begin) throw_io_error("read", path_, got < 0 ? errno : EIO);
    const std::string_view bytes(block.data(), static_cast<std::size_t>(got));
    if (const auto at = bytes.rfind('\n'); at != std::string_view::npos)
      return begin + static_cast<std::int64_t>(at) + 1;
    end = begin;
  }
  return 0;
}

// Bytes up to the end of the last whole member.
std::int64_t LineWriter::whole_members() const {
  std::atomic<std::uint64_t> progress = 0;
  const std::unique_ptr<ByteStream> stream = ByteStream::open(path_, progress);
  std::vector<char> block(std::size_t{1} << 18);
  try {
    while (stream->read_some(block) > 0) {
    }
  } catch (const CutShort&) {  // the end that a kill left
  }
  return static_cast<std::int64_t>(stream->whole_bytes());
}

void LineWriter::write(std::string_view line) {
  if (collected_.empty()) oldest_ = std::chrono::steady_clock::now();
  collected_ += line;
  collected_ += '\n';
  if (compression_ == Compression::none || collected_.size() >= flush_bytes) {
    flush();
  } else {
    poll();
  }
}

void LineWriter::flush() {
  if (collected_.empty()) return;
  // Cleared first: after a failure nobody knows what was written, and the destructor must not write it again.
  const std::string bytes = compress(std::exchange(collected_, {}), compression_);
  append(bytes);
}

void LineWriter::poll() {
  if (!collected_.empty() && std::chrono::steady_clock::now() - oldest_ >= flush_interval) flush();
}

void LineWriter::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_, bytes.data(), bytes.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == EPIPE) {
        throw Error(fmt::format("cannot write to {}", is_stdout() ? "stdout" : path_.string()),
                    "its reader has stopped reading", "start again with an output that is read to the end");
      }
      throw_io_error("write", is_stdout() ? "stdout" : path_, errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
}

void LineWriter::sync() {
  flush();
  if (!is_stdout() && ::fsync(file_) != 0 && errno != EINVAL && errno != EROFS) throw_io_error("sync", path_, errno);
}

}  // namespace photon
