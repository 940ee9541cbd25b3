// The last operations of this rank, for the case that a job hangs or dies: a ring in memory, written as JSON lines when
// a wait expires, a peer dies or the job is ended from outside.
#pragma once

#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace photon::comm {

class OperationLog {
 public:
  static constexpr std::size_t capacity = 512;  // operations

  // Notes that an operation begins; the result names it in end(). peer < 0: all ranks of the communicator.
  std::uint64_t begin(std::string_view operation, std::string_view communicator, std::int64_t bytes, int peer, int tag,
                      std::string_view phase);
  void end(std::uint64_t number);

  // Where write() puts the ring. `host` and the ranks appear in the file's first line.
  void set_file(std::string_view path, std::string_view host, int rank, int num_ranks);
  // Writes the ring to the file, oldest operation first, in place of what the file held; nothing without set_file().
  // Safe inside a signal handler: neither allocates nor locks. False when the file cannot be written.
  bool write(const char* reason) const noexcept;
  // Takes back what write() wrote, when the job ended in order after all.
  void discard() const noexcept;

 private:
  template <std::size_t N>
  using Text = std::array<char, N>;

  struct Entry {
    std::uint64_t number = 0;  // 0: empty
    Text<24> operation{};
    Text<24> communicator{};
    Text<64> phase{};
    std::int64_t bytes = 0;
    int peer = -1;
    int tag = -1;
    std::int64_t begin_us = 0;  // since 1970
    std::int64_t end_us = 0;    // 0: under way
  };
  std::array<Entry, capacity> ring_{};
  std::uint64_t last_ = 0;
  Text<1024> path_{};
  Text<256> host_{};
  int rank_ = 0;
  int num_ranks_ = 1;
  mutable volatile std::sig_atomic_t written_ = 0;
};

}  // namespace photon::comm
