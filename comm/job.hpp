// What all communicators of a process share: who the ranks are, the phase, the operations under way, and the one loop
// in which this process waits for others. Internal to this room.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/operation_log.hpp"
#include "comm/watchdog.hpp"

namespace photon::comm {

// A rank of the world as the others know it.
struct Peer {
  std::string host;
  pid_t pid = 0;
  std::uint64_t started = 0;  // the kernel's start time of that process; with it a reused number is told apart
  bool visible = false;       // this process can see whether that one lives: same kernel, same process numbers
};

// Something that goes on by being polled.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual bool advance() = 0;                // polls; true when it has finished, never throws because of a slow peer
  virtual std::string missing() const = 0;   // whose part is still missing, e.g. "rank 3 on host a"; may be empty
  virtual std::string describe() const = 0;  // e.g. "all_reduce did not finish on rank 1 of 4 (data)"
};

class Job {
 public:
  Phase phase;
  OperationLog log;
  std::string host;
  int rank = 0;             // in the world
  std::vector<Peer> peers;  // by rank in the world; empty without MPI
  bool (*stop_requested)() = nullptr;

  // Operations that have begun and must go on while this process waits for something else: a peer may need their next
  // exchange before it can send what is waited for.
  void begin(const std::shared_ptr<Progress>& operation);
  void end(const Progress& operation);
  void advance_all();
  void abandon() { under_way_.clear(); }  // at the end: what expired stays unfinished

  // Polls `operation`, and all others, until it has finished. Errors: Error at the phase's deadline, when a rank that
  // this process can see has died, or when others do not answer after this process was asked to stop.
  void wait(Progress& operation);

  // For the time of a call that blocks until other ranks do the same: ends this process at the phase's deadline.
  Watchdog limit(const char* operation) const;

  bool may_live(int world_rank) const;             // false: seen to have died
  std::string name_of_rank(int world_rank) const;  // "rank 3 on host a"

 private:
  void check_peers(const Progress& operation) const;
  std::vector<std::shared_ptr<Progress>> under_way_;
};

// This process and how others can tell whether it lives.
std::uint64_t start_time_of(pid_t pid);  // 0: no such process, or it has ended and was not yet collected
// Equal for processes that see each other under the same process numbers.
std::uint64_t process_space();

}  // namespace photon::comm
