#include "comm/job.hpp"

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <sstream>

#include "comm/limits.hpp"

namespace photon::comm {
namespace {

using Clock = std::chrono::steady_clock;

// How often a long wait looks whether the others live.
constexpr double check_seconds = 0.1;
// A wait polls without a pause at first: what is nearly there, as a message is or a GPU's result, is worth more than
// the core is. It gives the core up to whoever is ready to run, so ranks that share one do not starve each other.
constexpr double spin_seconds = 100e-6;
// Then it sleeps, longer the longer it has waited.
constexpr double short_wait_seconds = 0.002;
constexpr double long_wait_seconds = 1;
// A job that was asked to stop ends at the next microbatch; a rank that has not answered by then will not.
constexpr double stop_seconds = 60;

}  // namespace

Limits& limits() {
  static Limits the_limits;
  return the_limits;
}

std::uint64_t start_time_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // The second field is the program's name in parentheses, which may hold anything.
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string state, skipped;
  fields >> state;
  if (state == "Z" || state == "X") return 0;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  std::uint64_t started = 0;
  fields >> started;
  return started;
}

std::uint64_t process_space() {
  std::string text;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> text;
  struct stat pids {};
  if (stat("/proc/self/ns/pid", &pids) == 0) text += std::to_string(pids.st_ino);
  return std::hash<std::string>{}(text);
}

void Job::begin(const std::shared_ptr<Progress>& operation) {
  under_way_.push_back(operation);
}

void Job::end(const Progress& operation) {
  const auto found = std::find_if(under_way_.begin(), under_way_.end(),
                                  [&](const std::shared_ptr<Progress>& other) { return other.get() == &operation; });
  if (found != under_way_.end()) under_way_.erase(found);
}

void Job::advance_all() {
  // advance() may take an operation out of the list.
  for (std::size_t i = 0; i < under_way_.size();) {
    const std::shared_ptr<Progress> operation = under_way_[i];
    operation->advance();
    if (i < under_way_.size() && under_way_[i] == operation) ++i;
  }
}

std::string Job::name_of_rank(int world_rank) const {
  const auto index = static_cast<std::size_t>(world_rank);
  if (index >= peers.size()) return fmt::format("rank {}", world_rank);
  return fmt::format("rank {} on host {}", world_rank, peers[index].host);
}

bool Job::may_live(int world_rank) const {
  if (world_rank == rank || static_cast<std::size_t>(world_rank) >= peers.size()) return true;
  const Peer& peer = peers[static_cast<std::size_t>(world_rank)];
  return !peer.visible || start_time_of(peer.pid) == peer.started;
}

Watchdog Job::limit(const char* operation) const {
  return Watchdog(phase.deadline_seconds, [this, operation, seconds = phase.deadline_seconds] {
    std::fprintf(stderr, "%s did not finish on rank %d, host %s (waited %g s for other ranks) see what they report\n",
                 operation, rank, host.c_str(), seconds);
    log.write("this rank gave up");
    std::_Exit(static_cast<int>(ExitCode::failed));
  });
}

void Job::check_peers(const Progress& operation) const {
  for (std::size_t r = 0; r < peers.size(); ++r) {
    if (may_live(static_cast<int>(r))) continue;
    throw RankError(operation.describe(),
                    fmt::format("{}, process {}, has died", name_of_rank(static_cast<int>(r)), peers[r].pid),
                    "look at what that rank said last");
  }
}

void Job::wait(Progress& operation) {
  const auto begin = Clock::now();
  double next_check = check_seconds;
  double stopping_since = -1;
  for (std::int64_t polls = 0;; ++polls) {
    if (operation.advance()) return;
    advance_all();
    if (polls < 100) continue;
    const double waited = std::chrono::duration<double>(Clock::now() - begin).count();
    const std::string missing = waited > phase.deadline_seconds ? operation.missing() : std::string();
    const std::string from = missing.empty() ? "other ranks" : missing;
    if (waited > phase.deadline_seconds) {
      throw RankError(operation.describe(),
                      fmt::format("waited {:.1f} s for {}, the limit is {:g} s", waited, from, phase.deadline_seconds),
                      "look for a rank that stopped, hangs or is much slower");
    }
    if (waited > next_check) {
      next_check = waited + check_seconds;
      check_peers(operation);
      if (stopping_since < 0 && stop_requested != nullptr && stop_requested()) stopping_since = waited;
      if (stopping_since >= 0 && waited - stopping_since > stop_seconds) {
        throw RankError(operation.describe(),
                        fmt::format("this rank was asked to stop, and waited {:g} s for {}", stop_seconds,
                                    operation.missing().empty() ? "other ranks" : operation.missing()),
                        "a rank has died or hangs; nothing was saved after the last checkpoint");
      }
    }
    if (waited < spin_seconds) {
      sched_yield();
      continue;
    }
    const timespec pause{0, waited < short_wait_seconds ? 2'000 : waited < long_wait_seconds ? 20'000 : 500'000};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace photon::comm
