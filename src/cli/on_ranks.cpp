#include "cli/on_ranks.hpp"

#include <csignal>
#include <cstdlib>

#include "cli/exit_file.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon::cli {

void run_on_ranks(const std::function<void(World&)>& work) {
  int rank = 0;
  try {
    World world;
    rank = world.rank();
    init_logging(world.rank(), world.size());
    world.run([&] {
      try {
        tell_errors([&] { work(world); });
      } catch (const Preempted&) {
        // Launchers repeat SIGTERM, and answer the ranks' last meeting late when they are being stopped themselves. All
        // is saved: nothing may make it look otherwise.
        std::signal(SIGTERM, SIG_IGN);
        tell_exit_code(static_cast<int>(ExitCode::preempted));
        throw;
      }
    });
  } catch (const Preempted&) {
    if (rank == 0) throw;
    std::exit(static_cast<int>(ExitCode::preempted));  // rank 0 tells it for all
  }
}

}  // namespace photon::cli
