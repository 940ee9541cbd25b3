#include "comm/watchdog.hpp"

#include <chrono>
#include <csignal>
#include <utility>

namespace photon::comm {

Watchdog::Watchdog(double seconds, std::function<void()> expired) {
  // Signals are the main thread's: handlers interrupt its waits.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, seconds, f = std::move(expired)] {
    std::unique_lock lock(mutex_);
    if (!over_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return done_; })) f();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  over_.notify_one();
  thread_.join();
}

}  // namespace photon::comm
