#include "data/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "support/log.hpp"

namespace photon {

std::string bytes_text(double bytes) {
  constexpr std::array units{"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  while (bytes >= 999.95 && unit + 1 < units.size()) {
    bytes /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string progress_text(std::uint64_t done, std::uint64_t total, double seconds) {
  done = std::min(done, total);
  const double share = total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
  std::string text = fmt::format("{:.0f}% ({} of {})", share * 100, bytes_text(static_cast<double>(done)),
                                 bytes_text(static_cast<double>(total)));
  if (done > 0 && seconds > 0) {
    const double rate = static_cast<double>(done) / seconds;
    const auto left = static_cast<std::int64_t>(static_cast<double>(total - done) / rate + 0.5);
    text += fmt::format(", {}/s, {}:{:02}", bytes_text(rate), left / 60, left % 60) + " left";
  }
  return text;
}

Progress::Progress(std::string what, std::uint64_t total)
    : what_(std::move(what)),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_(start_) {}

Progress::~Progress() {
  clear();
}

void Progress::update(std::uint64_t done) {
  const auto now = Clock::now();
  if (now - last_ < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000))) return;
  last_ = now;
  const std::string text = progress_text(done, total_, std::chrono::duration<double>(now - start_).count());
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s %s", what_.c_str(), text.c_str());
    std::fflush(stderr);
    shown_ = true;
  } else {
    log_info("{} {}", what_, text);
  }
}

void Progress::clear() {
  if (!shown_) return;
  std::fprintf(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace photon
