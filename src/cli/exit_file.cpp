#include "cli/exit_file.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include "support/error.hpp"

namespace photon::cli {
namespace {

// The rank under a launcher; 0 alone.
int rank_of_environment() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return 0;
}

}  // namespace

void tell_exit_code(int code) {
  const char* const path = std::getenv("PHOTON_EXIT_FILE");
  if (path == nullptr || rank_of_environment() != 0) return;
  if (std::FILE* const file = std::fopen(path, "w")) {
    fmt::print(file, "{}\n", code);
    std::fclose(file);
  }
}

void tell_errors(const std::function<void()>& work) {
  try {
    work();
  } catch (const Preempted&) {
    throw;
  } catch (const InputError&) {
    tell_exit_code(static_cast<int>(ExitCode::bad_input));
    throw;
  } catch (const std::exception&) {
    tell_exit_code(static_cast<int>(ExitCode::failed));
    throw;
  }
}

}  // namespace photon::cli
