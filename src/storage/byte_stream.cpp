#include "storage/byte_stream.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <streambuf>
#include <string_view>
#include <vector>

namespace photon {
namespace {

constexpr std::size_t block_bytes = 1 << 18;
constexpr std::size_t magic_bytes = 4;

template <class Kind = InputError>
Kind damaged(const std::filesystem::path& file, std::string_view why) {
  return Kind(fmt::format("cannot decompress {}", file.string()), why,
              "fetch or compress the file again, or leave it out");
}

int open_file(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    throw InputError(fmt::format("cannot read {}", file.string()), std::strerror(errno),
                     "check the name and its permissions");
  }
  ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
  return descriptor;
}

// The file on disk, a block at a time. Closes its descriptor unless that is stdin's.
class DiskFile {
 public:
  DiskFile(int descriptor, const std::filesystem::path& name, std::atomic<std::uint64_t>& progress,
           const ReadStop* stop)
      : path_(name),
        stop_(stop),
        progress_(progress),
        hash_(XXH3_createState(), XXH3_freeState),
        block_(block_bytes),
        descriptor_(descriptor) {
    XXH3_64bits_reset(hash_.get());
  }
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;
  ~DiskFile() {
    if (descriptor_ != STDIN_FILENO) ::close(descriptor_);
  }

  // What is read and not yet taken; reads on when that is nothing. Empty at the end of the file.
  std::string_view peek() {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = read_block();
    }
    return {block_.data() + begin_, end_ - begin_};
  }
  void take(std::size_t count) { begin_ += count; }

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t taken() const { return bytes_ - (end_ - begin_); }
  SourceDigest digest() const { return {path_, bytes_, XXH3_64bits_digest(hash_.get())}; }

 private:
  // What is there; at the beginning at least so much that a magic number is never split, unless the file ends.
  std::size_t read_block() {
    std::size_t filled = 0;
    while (filled < (bytes_ == 0 ? magic_bytes : 1)) {
      if (stop_ != nullptr && !wait_for_input()) break;
      const ssize_t got = ::read(descriptor_, block_.data() + filled, block_.size() - filled);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) {
        throw InputError(fmt::format("cannot read {}", path_.string()), std::strerror(errno),
                         "check the file and the disk it is on");
      }
      if (got == 0) break;
      filled += static_cast<std::size_t>(got);
    }
    XXH3_64bits_update(hash_.get(), block_.data(), filled);
    bytes_ += filled;
    progress_ += filled;
    return filled;
  }

  // False once it was stopped.
  bool wait_for_input() const {
    pollfd waiting[] = {{descriptor_, POLLIN, 0}, {stop_->descriptor(), POLLIN, 0}};
    while (::poll(waiting, 2, -1) < 0 && errno == EINTR) {
    }
    return waiting[1].revents == 0;
  }

  std::filesystem::path path_;
  const ReadStop* stop_;
  std::atomic<std::uint64_t>& progress_;
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash_;
  std::vector<char> block_;
  int descriptor_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::uint64_t bytes_ = 0;
};

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(std::unique_ptr<DiskFile> disk) : disk_(std::move(disk)) {}
  std::size_t read_some(std::span<char> out) override {
    const std::size_t count = disk_->peek().copy(out.data(), out.size());
    disk_->take(count);
    return count;
  }
  std::uint64_t whole_bytes() const override { return disk_->taken(); }
  SourceDigest digest() const override { return disk_->digest(); }

 private:
  std::unique_ptr<DiskFile> disk_;
};

class GzipStream final : public ByteStream {
 public:
  explicit GzipStream(std::unique_ptr<DiskFile> disk) : disk_(std::move(disk)) {
    if (inflateInit2(&z_, 15 + 16) != Z_OK) throw Error("zlib cannot start", "out of memory", "");
  }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;
  ~GzipStream() override { inflateEnd(&z_); }

  std::size_t read_some(std::span<char> out) override {
    std::size_t filled = 0;
    while (filled == 0 && !out.empty() && !at_end_) {
      const std::string_view input = disk_->peek();
      if (input.empty()) {
        if (in_member_) throw damaged<CutShort>(disk_->path(), "the gzip stream is cut short");
        at_end_ = true;
        break;
      }
      if (!in_member_ && num_members_ > 0 && skip_padding(input)) continue;
      in_member_ = true;
      z_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));  // zlib does not write there
      z_.avail_in = static_cast<uInt>(input.size());
      z_.next_out = reinterpret_cast<Bytef*>(out.data() + filled);
      z_.avail_out = static_cast<uInt>(std::min<std::size_t>(out.size() - filled, 1U << 30));
      const uInt room = z_.avail_out;
      const int result = inflate(&z_, Z_NO_FLUSH);
      disk_->take(input.size() - z_.avail_in);
      filled += room - z_.avail_out;
      if (result == Z_STREAM_END) {
        in_member_ = false;
        whole_ = disk_->taken();
        ++num_members_;
        inflateReset(&z_);
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        throw damaged(disk_->path(), z_.msg != nullptr ? z_.msg : "the gzip stream is damaged");
      }
    }
    return filled;
  }
  std::uint64_t whole_bytes() const override { return whole_; }
  SourceDigest digest() const override { return disk_->digest(); }

 private:
  // Zeros may follow the last member, as gzip itself allows.
  bool skip_padding(std::string_view input) {
    std::size_t zeros = input.find_first_not_of('\0');
    if (zeros == 0) return false;
    disk_->take(zeros == std::string_view::npos ? input.size() : zeros);
    whole_ = disk_->taken();
    return true;
  }

  std::unique_ptr<DiskFile> disk_;
  z_stream z_{};
  std::uint64_t whole_ = 0;
  bool in_member_ = true;
  bool at_end_ = false;
  int num_members_ = 0;
};

class ZstdStream final : public ByteStream {
 public:
  explicit ZstdStream(std::unique_ptr<DiskFile> disk)
      : disk_(std::move(disk)), z_(ZSTD_createDStream(), ZSTD_freeDStream) {
    ZSTD_DCtx_setParameter(z_.get(), ZSTD_d_windowLogMax, 31);  // zstd --ultra --long=31
  }

  std::size_t read_some(std::span<char> out) override {
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    while (output.pos == 0 && output.size > 0 && !at_end_) {
      const std::string_view bytes = disk_->peek();
      if (bytes.empty()) {
        // What the decoder still holds comes out with an empty input.
        ZSTD_inBuffer none{nullptr, 0, 0};
        const std::size_t before = output.pos;
        if (in_frame_) check(ZSTD_decompressStream(z_.get(), &output, &none));
        if (output.pos > before) continue;
        if (in_frame_) throw damaged<CutShort>(disk_->path(), "the zstd stream is cut short");
        at_end_ = true;
        break;
      }
      ZSTD_inBuffer input{bytes.data(), bytes.size(), 0};
      check(ZSTD_decompressStream(z_.get(), &output, &input));
      disk_->take(input.pos);
      if (!in_frame_) whole_ = disk_->taken();
    }
    return output.pos;
  }
  std::uint64_t whole_bytes() const override { return whole_; }
  SourceDigest digest() const override { return disk_->digest(); }

 private:
  void check(std::size_t result) {
    if (ZSTD_isError(result) != 0) throw damaged(disk_->path(), ZSTD_getErrorName(result));
    in_frame_ = result != 0;
  }

  std::unique_ptr<DiskFile> disk_;
  std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> z_;
  std::uint64_t whole_ = 0;
  bool in_frame_ = true;
  bool at_end_ = false;
};

// A stream's bytes behind the interface of the standard library. Owns the count of bytes that the stream reports to.
class ByteBuffer final : public std::streambuf {
 public:
  ByteBuffer(const std::filesystem::path& file, const ReadStop* stop) : stop_(stop), block_(block_bytes) {
    if (file != "-") stream_ = ByteStream::open(file, progress_, stop_);
  }

 protected:
  int_type underflow() override {
    if (!stream_) stream_ = ByteStream::open_stdin(progress_, stop_);  // which waits for its first bytes
    const std::size_t count = stream_->read_some(block_);
    setg(block_.data(), block_.data(), block_.data() + count);
    return count == 0 ? traits_type::eof() : traits_type::to_int_type(block_[0]);
  }

 private:
  std::atomic<std::uint64_t> progress_ = 0;
  const ReadStop* stop_;
  std::unique_ptr<ByteStream> stream_;
  std::vector<char> block_;
};

class TextStream final : public std::istream {
 public:
  TextStream(const std::filesystem::path& file, const ReadStop* stop) : std::istream(nullptr), buffer_(file, stop) {
    rdbuf(&buffer_);
    exceptions(std::ios::badbit);  // hands on what the buffer throws
  }

 private:
  ByteBuffer buffer_;
};

std::unique_ptr<ByteStream> make_stream(std::unique_ptr<DiskFile> disk) {
  const std::string_view start = disk->peek();
  const std::filesystem::path extension = disk->path().extension();
  if (start.starts_with("\x1f\x8b\x08")) return std::make_unique<GzipStream>(std::move(disk));
  if (start.starts_with("\x28\xb5\x2f\xfd")) return std::make_unique<ZstdStream>(std::move(disk));
  if (extension == ".gz") throw damaged(disk->path(), "it is named .gz but is not gzip");
  if (extension == ".zst") throw damaged(disk->path(), "it is named .zst but is not zstd");
  return std::make_unique<PlainStream>(std::move(disk));
}

}  // namespace

std::size_t ByteStream::read(std::span<char> out) {
  std::size_t filled = 0;
  while (filled < out.size()) {
    const std::size_t count = read_some(out.subspan(filled));
    if (count == 0) break;
    filled += count;
  }
  return filled;
}

ReadStop::ReadStop() : descriptor_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (descriptor_ < 0) throw Error("a reader cannot be made to stop", std::strerror(errno), "close other files");
}

ReadStop::~ReadStop() {
  ::close(descriptor_);
}

void ReadStop::stop() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(descriptor_, &one, sizeof one);
}

std::unique_ptr<ByteStream> ByteStream::open(const std::filesystem::path& file, std::atomic<std::uint64_t>& progress,
                                             const ReadStop* stop) {
  return make_stream(std::make_unique<DiskFile>(open_file(file), file, progress, stop));
}

std::unique_ptr<ByteStream> ByteStream::open_stdin(std::atomic<std::uint64_t>& progress, const ReadStop* stop) {
  return make_stream(std::make_unique<DiskFile>(STDIN_FILENO, "stdin", progress, stop));
}

std::unique_ptr<std::istream> open_text(const std::filesystem::path& file, const ReadStop* stop) {
  return std::make_unique<TextStream>(file, stop);
}

}  // namespace photon
