#include "cli/count_option.hpp"

#include <CLI/CLI.hpp>

namespace photon::cli {

void add_count_option(CLI::App& command, const char* name, std::int64_t& value, const char* help, std::int64_t least) {
  command.add_option(name, value, help)
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(least, std::int64_t{1} << 30));
}

}  // namespace photon::cli
