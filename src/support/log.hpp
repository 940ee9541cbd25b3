// Logging to stderr. `log` is for what all ranks agree on and only rank 0 says; `log_local` is for one rank's own news.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace photon {

enum class LogLevel { debug, info, warning, error };

// Sets who speaks: rank 0 writes to stderr, others write local messages only. Level is taken from PHOTON_LOG
// (debug|info|warning|error, default info). Call once at start; before it, this process counts as rank 0 of 1.
void init_logging(int rank, int num_ranks);

// Adds a file that receives everything this rank says, e.g. <run>/logs/rank-3.log. Creates parent folders.
void log_to_file(const std::string& path);

void log_text(LogLevel level, bool local, std::string_view text);

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_text(LogLevel::info, false, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_text(LogLevel::warning, false, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_text(LogLevel::debug, false, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_local(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  log_text(level, true, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace photon
