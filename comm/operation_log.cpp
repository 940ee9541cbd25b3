#include "comm/operation_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

namespace photon::comm {
namespace {

std::int64_t now_us() noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

// Copies what fits, and leaves out what a JSON string would have to escape.
template <std::size_t N>
void assign(std::array<char, N>& to, std::string_view text) {
  const std::size_t size = std::min(text.size(), N - 1);
  for (std::size_t i = 0; i < size; ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    to[i] = c < 0x20 || c == '"' || c == '\\' ? '?' : text[i];
  }
  to[size] = '\0';
}

// A line under construction; what does not fit is dropped. Formats by hand: a signal handler may not use printf.
class Line {
 public:
  Line& text(const char* value) noexcept {
    for (; *value != '\0' && size_ < sizeof bytes_; ++value) bytes_[size_++] = *value;
    return *this;
  }
  Line& number(std::int64_t value, int digits = 1) noexcept {
    char reversed[24];
    int count = 0;
    auto rest = value < 0 ? -static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
    do {
      reversed[count++] = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while ((rest > 0 || count < digits) && count < 23);
    if (value < 0) reversed[count++] = '-';
    while (count > 0 && size_ < sizeof bytes_) bytes_[size_++] = reversed[--count];
    return *this;
  }
  Line& seconds(std::int64_t us) noexcept { return number(us / 1'000'000).text(".").number(us % 1'000'000, 6); }
  bool write(int file) const noexcept {
    for (std::size_t done = 0; done < size_;) {
      const ssize_t result = ::write(file, bytes_ + done, size_ - done);
      if (result < 0 && errno == EINTR) continue;
      if (result <= 0) return false;
      done += static_cast<std::size_t>(result);
    }
    return true;
  }

 private:
  char bytes_[2048];
  std::size_t size_ = 0;
};

}  // namespace

std::uint64_t OperationLog::begin(std::string_view operation, std::string_view communicator, std::int64_t bytes,
                                  int peer, int tag, std::string_view phase) {
  const std::uint64_t number = last_ + 1;
  Entry& entry = ring_[number % capacity];
  entry.number = 0;  // a handler that interrupts this sees no half entry
  assign(entry.operation, operation);
  assign(entry.communicator, communicator);
  assign(entry.phase, phase);
  entry.bytes = bytes;
  entry.peer = peer;
  entry.tag = tag;
  entry.begin_us = now_us();
  entry.end_us = 0;
  entry.number = number;
  last_ = number;
  return number;
}

void OperationLog::end(std::uint64_t number) {
  Entry& entry = ring_[number % capacity];
  if (entry.number == number) entry.end_us = now_us();
}

void OperationLog::set_file(std::string_view path, std::string_view host, int rank, int num_ranks) {
  path_[0] = '\0';
  if (path.size() >= path_.size()) return;  // nobody's run folder; without a file nothing is written
  std::copy(path.begin(), path.end(), path_.begin());
  path_[path.size()] = '\0';
  assign(host_, host);
  rank_ = rank;
  num_ranks_ = num_ranks;
}

bool OperationLog::write(const char* reason) const noexcept {
  if (path_[0] == '\0') return true;
  const int saved_errno = errno;
  written_ = 1;
  const int file = open(path_.data(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) {
    errno = saved_errno;
    return false;
  }
  Line head;
  head.text("{\"rank\": ").number(rank_).text(", \"ranks\": ").number(num_ranks_);
  head.text(", \"host\": \"").text(host_.data()).text("\", \"process\": ").number(getpid());
  head.text(", \"written\": ").seconds(now_us()).text(", \"reason\": \"").text(reason).text("\"}\n");
  bool good = head.write(file);
  const std::uint64_t first = last_ < capacity ? 1 : last_ - capacity + 1;
  for (std::uint64_t number = first; number <= last_ && good; ++number) {
    const Entry& entry = ring_[number % capacity];
    if (entry.number != number) continue;
    Line line;
    line.text("{\"number\": ").number(static_cast<std::int64_t>(number));
    line.text(", \"operation\": \"").text(entry.operation.data());
    line.text("\", \"communicator\": \"").text(entry.communicator.data());
    line.text("\", \"bytes\": ").number(entry.bytes);
    if (entry.peer >= 0) line.text(", \"peer\": ").number(entry.peer).text(", \"tag\": ").number(entry.tag);
    line.text(", \"phase\": \"").text(entry.phase.data()).text("\", \"begin\": ").seconds(entry.begin_us);
    line.text(", \"end\": ");
    entry.end_us == 0 ? line.text("null") : line.seconds(entry.end_us);
    good = line.text("}\n").write(file);
  }
  good = close(file) == 0 && good;
  errno = saved_errno;
  return good;
}

void OperationLog::discard() const noexcept {
  if (written_ != 0) unlink(path_.data());
}

}  // namespace photon::comm
