// SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 as a wish to stop that a command reads between pieces of work.
#pragma once

#include <array>
#include <csignal>
#include <utility>

namespace photon {

// Catches the signals while it lives and restores what was there before; but after a wish to stop, all but
// SIGINT never get their default back, because a late one would take the exit code of a process that is ending in
// order. A second SIGINT ends the process at once. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // This process stops too, by a wish that another rank has heard; its own signal may still be on its way.
  static void stop_here();
  // The signal that came first, 0 while there is none.
  static int received();
  static const char* name(int signal);  // "SIGTERM", ...

 private:
  std::array<std::pair<int, struct sigaction>, 4> previous_;
};

}  // namespace photon
