#include "support/log.hpp"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <filesystem>
#include <memory>

#include "support/error.hpp"

namespace photon {
namespace {

struct Channels {
  int rank = 0;
  int num_ranks = 1;
  std::shared_ptr<spdlog::logger> console;
  std::shared_ptr<spdlog::logger> file;
};

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::level::level_enum level_from_environment() {
  const char* value = std::getenv("PHOTON_LOG");
  if (value == nullptr) return spdlog::level::info;
  const std::string_view name(value);
  if (name == "debug") return spdlog::level::debug;
  if (name == "info") return spdlog::level::info;
  if (name == "warning") return spdlog::level::warn;
  if (name == "error") return spdlog::level::err;
  throw InputError(fmt::format("PHOTON_LOG is '{}'", name), "it is not a log level",
                   "set it to debug, info, warning or error");
}

std::shared_ptr<spdlog::logger> make_console() {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>("photon", sink);
  logger->set_pattern("%^%L%$ %H:%M:%S %v");
  logger->set_level(spdlog::level::info);
  return logger;
}

Channels& channels() {
  static Channels instance{0, 1, make_console(), nullptr};
  return instance;
}

}  // namespace

void init_logging(int rank, int num_ranks) {
  Channels& c = channels();
  c.rank = rank;
  c.num_ranks = num_ranks;
  c.console->set_level(level_from_environment());
}

void log_to_file(const std::string& path) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  Channels& c = channels();
  c.file = std::make_shared<spdlog::logger>("file", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
  c.file->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  c.file->set_level(spdlog::level::debug);
  c.file->flush_on(spdlog::level::info);
}

void log_text(LogLevel level, bool local, std::string_view text) {
  Channels& c = channels();
  const auto spd_level = to_spdlog(level);
  if (c.file) c.file->log(spd_level, "{}", text);
  if (!local && c.rank != 0) return;
  if (local && c.num_ranks > 1) {
    c.console->log(spd_level, "[rank {}] {}", c.rank, text);
  } else {
    c.console->log(spd_level, "{}", text);
  }
}

}  // namespace photon
