// A limit for calls of MPI that block: what cannot be polled is ended with the process. Internal to this room.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace photon::comm {

// Calls `expired` on another thread when it still lives after `seconds`.
class Watchdog {
 public:
  Watchdog(double seconds, std::function<void()> expired);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace photon::comm
