// Options that count something, as the parts of bench have them.
#pragma once

#include <cstdint>

namespace CLI {
class App;
}

namespace photon::cli {

// Adds an option N from `least` up to 2^30; the help shows the value as its default.
void add_count_option(CLI::App& command, const char* name, std::int64_t& value, const char* help, std::int64_t least);

}  // namespace photon::cli
