#include "comm/stop_signal.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace photon {
namespace {

// The wait status of a process that does the work and then exits with 75.
template <typename Work>
int status_after(const Work& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) std::signal(signal, SIG_DFL);
    work();
    ::_exit(75);
  }
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

TEST(StopSignal, ASecondInterruptEndsTheProcess) {
  const int status = status_after([] {
    const StopSignal signals;
    raise(SIGINT);
    if (StopSignal::received() != SIGINT) ::_exit(1);
    raise(SIGINT);
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT) << status;
}

TEST(StopSignal, PutsBackAHandler) {
  const int status = status_after([] {
    std::signal(SIGUSR1, [](int) { ::_exit(3); });
    {
      const StopSignal signals;
      raise(SIGUSR1);
      raise(SIGTERM);
      if (StopSignal::received() != SIGUSR1) ::_exit(1);  // the first one
    }
    raise(SIGUSR1);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 3) << status;
}

// Also where another rank heard it first: this rank's own signal may come when it is ending already.
TEST(StopSignal, ALateWishDoesNotTakeTheExitCode) {
  for (const bool heard : {false, true}) {
    const int status = status_after([&] {
      {
        const StopSignal signals;
        if (StopSignal::received() != 0) ::_exit(1);
        heard ? void(raise(SIGTERM)) : StopSignal::stop_here();
      }
      raise(SIGUSR1);
      raise(SIGTERM);
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 75) << status;
  }
}

// A rank that fails is ended with the others by SIGTERM.
TEST(StopSignal, WithoutAWishSigtermEndsTheProcess) {
  const int status = status_after([] {
    { const StopSignal signals; }
    raise(SIGTERM);
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
}

TEST(StopSignal, AnInterruptEndsAProcessThatIsEnding) {
  const int status = status_after([] {
    {
      const StopSignal signals;
      StopSignal::stop_here();
    }
    raise(SIGINT);
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT) << status;
}

}  // namespace
}  // namespace photon
