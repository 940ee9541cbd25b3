#include "comm/stop_signal.hpp"

#include "comm/world.hpp"

namespace photon {
namespace {

volatile std::sig_atomic_t first_signal = 0;
volatile std::sig_atomic_t interrupts = 0;
bool stopping = false;  // told by stop_here()

void on_signal(int signal) {
  if (first_signal == 0) first_signal = signal;
  // A launcher also sends SIGTERM when another rank has died, and SIGKILL soon after; a stop in order removes the file.
  World::write_operations(StopSignal::name(signal));
  if (signal != SIGINT) return;
  interrupts = interrupts + 1;
  if (interrupts > 1) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
}

void pass_over(int) {}

}  // namespace

StopSignal::StopSignal() : previous_{{{SIGTERM, {}}, {SIGINT, {}}, {SIGUSR1, {}}, {SIGUSR2, {}}}} {
  first_signal = 0;
  interrupts = 0;
  stopping = false;
  for (auto& [signal, before] : previous_) {
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, &before);
  }
}

StopSignal::~StopSignal() {
  // Launchers repeat the wish, on ways of different lengths: what comes late finds a process that is ending in order,
  // and must not take its exit code. (A handler, because children would inherit SIG_IGN.)
  const bool in_order = stopping || first_signal != 0;
  for (const auto& [signal, before] : previous_) {
    struct sigaction action = before;
    const bool is_default = !(before.sa_flags & SA_SIGINFO) && before.sa_handler == SIG_DFL;
    if (in_order && is_default && signal != SIGINT) {
      action.sa_handler = pass_over;
      action.sa_flags = SA_RESTART;
    }
    sigaction(signal, &action, nullptr);
  }
}

void StopSignal::stop_here() {
  stopping = true;
}

int StopSignal::received() {
  return first_signal;
}

const char* StopSignal::name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    default:
      return "a signal";
  }
}

}  // namespace photon
