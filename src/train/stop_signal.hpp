// SIGTERM, SIGINT and SIGUSR1 as a wish to stop that the trainer reads between pieces of work.
#pragma once

#include <array>
#include <csignal>
#include <utility>

namespace photon {

// Catches the signals while it lives, for the rest of a command's work. A second SIGINT ends the process at once. When
// it goes, the process is ending: it puts back what was there before, but SIGTERM and SIGUSR1 never get their default
// back, because a late one would take the exit code. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // The signal that came first, 0 while there is none.
  static int received();
  static const char* name(int signal);  // "SIGTERM", ...

 private:
  std::array<std::pair<int, struct sigaction>, 3> previous_;
};

}  // namespace photon
