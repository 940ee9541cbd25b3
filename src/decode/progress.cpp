#include "decode/progress.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "support/error.hpp"
#include "support/log.hpp"

namespace photon {

ProgressFigures progress_figures(const EngineStatistics& statistics, std::int64_t num_resumed) {
  return {statistics.rows,       statistics.errors,     num_resumed,
          statistics.new_tokens, statistics.num_active, statistics.cache_bytes};
}

std::optional<double> seconds_left(const ProgressFigures& figures, std::int64_t total, double seconds) {
  const std::int64_t now = figures.rows + figures.errors;
  if (total < figures.done() || (now == 0 && total > figures.done())) return std::nullopt;
  if (total == figures.done()) return 0;
  return seconds * static_cast<double>(total - figures.done()) / static_cast<double>(now);
}

std::string progress_text(const ProgressFigures& figures, std::int64_t total, double seconds) {
  std::string text =
      total >= 0 ? fmt::format("{}/{} rows", figures.done(), total) : fmt::format("{} rows", figures.done());
  text += fmt::format(", {} tokens", figures.tokens);
  if (seconds > 0) text += fmt::format(", {:.0f} tok/s", static_cast<double>(figures.tokens) / seconds);
  text += fmt::format(", {} in flight", figures.active);
  if (figures.cache_bytes > 0) {
    text += fmt::format(", {:.2f} GiB of caches", static_cast<double>(figures.cache_bytes) / 0x1p30);
  }
  if (figures.errors > 0) text += fmt::format(", {} errors", figures.errors);
  const std::optional<double> remaining = seconds_left(figures, total, seconds);
  if (remaining && total > figures.done()) {
    const auto left = static_cast<std::int64_t>(*remaining);
    text += left >= 3600 ? fmt::format(", {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60)
                         : fmt::format(", {}:{:02} left", left / 60, left % 60);
  }
  return text;
}

std::string progress_json(const ProgressFigures& figures, std::int64_t total, double seconds) {
  const auto known = [](bool is, auto value) { return is ? nlohmann::ordered_json(value) : nullptr; };
  const auto rounded = [](double value) { return std::round(value * 1000) / 1000; };
  const std::optional<double> left = seconds_left(figures, total, seconds);
  const nlohmann::ordered_json line = {
      {"rows", figures.rows},
      {"errors", figures.errors},
      {"resumed", figures.resumed},
      {"total", known(total >= 0, total)},
      {"tokens", figures.tokens},
      {"tokens_per_second", known(seconds > 0, rounded(static_cast<double>(figures.tokens) / std::max(seconds, 1e-9)))},
      {"eta_seconds", known(left.has_value(), rounded(left.value_or(0)))},
      {"active", figures.active},
      {"cache_bytes", figures.cache_bytes},
      {"elapsed", rounded(seconds)},
  };
  return line.dump();
}

DecodeProgress::DecodeProgress(const ProgressOptions& options, std::int64_t total)
    : options_(options), total_(total), terminal_(isatty(STDERR_FILENO) == 1) {
  if (!(options_.every_seconds > 0)) {
    throw InputError(fmt::format("progress is shown every {} seconds", options_.every_seconds), "it must be above 0",
                     "change --progress-every");
  }
  if (!options_.json.empty() && options_.json != "-") json_ = LineWriter(options_.json, Compression::none);
}

DecodeProgress::~DecodeProgress() {
  clear();
}

void DecodeProgress::update(const ProgressFigures& figures) {
  const auto now = Clock::now();
  const std::chrono::duration<double> every(options_.every_seconds);
  if (!options_.json.empty() && now - last_json_ >= every) {
    last_json_ = now;
    write_json(figures);
  }
  if (options_.json == "-") return;
  if (now - last_ < (terminal_ ? std::chrono::duration<double>(0.2) : every)) return;
  last_ = now;
  const std::string text = progress_text(figures, total_, seconds());
  if (!terminal_) {
    log_info("generate: {}", text);
    return;
  }
  std::fprintf(stderr, "\r\x1b[K%s", text.c_str());
  std::fflush(stderr);
  shown_ = true;
}

void DecodeProgress::finish(const ProgressFigures& figures) {
  clear();
  if (!options_.json.empty()) write_json(figures);
}

void DecodeProgress::write_json(const ProgressFigures& figures) {
  const std::string line = progress_json(figures, total_, seconds());
  if (options_.json == "-") {
    std::fprintf(stderr, "%s\n", line.c_str());
  } else {
    json_.write(line);
  }
}

void DecodeProgress::clear() {
  if (shown_) {
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
  }
  shown_ = false;
}

}  // namespace photon
