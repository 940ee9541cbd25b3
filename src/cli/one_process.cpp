#include "cli/one_process.hpp"

#include "cli/exit_file.hpp"
#include "comm/stop_signal.hpp"
#include "comm/world.hpp"
#include "decode/open_model.hpp"
#include "support/error.hpp"
#include "support/log.hpp"

namespace photon::cli {

void run_in_one_process(const std::string& command, const std::function<void()>& work) {
  World world;
  init_logging(world.rank(), world.size());
  world.run([&] {
    tell_errors([&] {
      if (world.size() > 1) {
        throw InputError(fmt::format("photon {} was started on {} ranks", command, world.size()),
                         "it runs in one process",
                         "start it without mpirun or srun, or split its input and start one process for each part");
      }
      work();
    });
  });
}

void throw_if_stopped(const std::string& what_is_kept) {
  if (const int signal = StopSignal::received(); signal != 0) {
    throw Preempted(fmt::format("stopped by {} ({})", StopSignal::name(signal), what_is_kept));
  }
}

Context host_context(const std::string& numerics) {
  Context ctx;
  ctx.numerics = parse_numerics(numerics);
  return ctx;
}

}  // namespace photon::cli
