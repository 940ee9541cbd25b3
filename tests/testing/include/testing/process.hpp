// Other processes, as a test starts, watches and ends them.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "testing/temporary.hpp"

namespace photon::testing {

struct ProcessResult {
  int exit_code = -1;  // -1: ended by a signal
  int signal = 0;
  std::string errors;  // what it wrote to stderr
};

// A child process with stdout dropped and stderr kept in a file. Killed when it outlives this object.
class Process {
 public:
  Process(const std::vector<std::string>& command,
          const std::vector<std::pair<std::string, std::string>>& environment = {}) {
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    const std::string errors = (folder_ / "stderr").string();
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork failed");
    if (pid_ > 0) return;
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::dup2(::open("/dev/null", O_WRONLY), STDOUT_FILENO);
    ::dup2(::open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ~Process() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void send(int signal) const { ::kill(pid_, signal); }

  ProcessResult wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    ProcessResult result;
    if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
    result.errors = read_bytes(folder_ / "stderr");
    return result;
  }

  // The processes it started itself.
  std::vector<pid_t> children() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/task/" + std::to_string(pid_) + "/children");
    std::vector<pid_t> pids;
    for (pid_t pid = 0; file >> pid;) pids.push_back(pid);
    return pids;
  }

 private:
  TemporaryFolder folder_;
  pid_t pid_ = -1;
};

// Waits until `condition` holds; a test failure after `seconds`.
inline void wait_until(const std::function<bool()>& condition, double seconds = 60) {
  const auto begin = std::chrono::steady_clock::now();
  while (!condition()) {
    ASSERT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), seconds)
        << "waited in vain";
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace photon::testing
