#include "decode/progress.hpp"

#include <unistd.h>

#include <cstdio>

#include "support/log.hpp"

namespace photon {

std::string progress_text(const EngineStatistics& statistics, std::int64_t num_resumed, std::int64_t total,
                          double seconds) {
  const std::int64_t now = statistics.rows + statistics.errors;
  const std::int64_t done = now + num_resumed;
  std::string text = total >= 0 ? fmt::format("{}/{} rows", done, total) : fmt::format("{} rows", done);
  text += fmt::format(", {} tokens", statistics.new_tokens);
  if (seconds > 0) text += fmt::format(", {:.0f} tok/s", static_cast<double>(statistics.new_tokens) / seconds);
  text += fmt::format(", {} in flight", statistics.num_active);
  if (statistics.errors > 0) text += fmt::format(", {} errors", statistics.errors);
  if (total > done && now > 0) {
    const auto left = static_cast<std::int64_t>(seconds * static_cast<double>(total - done) / static_cast<double>(now));
    text += left >= 3600 ? fmt::format(", {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60)
                         : fmt::format(", {}:{:02} left", left / 60, left % 60);
  }
  return text;
}

DecodeProgress::DecodeProgress(std::int64_t total) : total_(total), terminal_(isatty(STDERR_FILENO) == 1) {}

DecodeProgress::~DecodeProgress() {
  clear();
}

void DecodeProgress::update(const EngineStatistics& statistics, std::int64_t num_resumed) {
  const auto now = Clock::now();
  if (now - last_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10))) return;
  last_ = now;
  const std::string text =
      progress_text(statistics, num_resumed, total_, std::chrono::duration<double>(now - start_).count());
  if (!terminal_) {
    log_info("generate: {}", text);
    return;
  }
  std::fprintf(stderr, "\r\x1b[K%s", text.c_str());
  std::fflush(stderr);
  shown_ = true;
}

void DecodeProgress::clear() {
  if (shown_) {
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
  }
  shown_ = false;
}

}  // namespace photon
