// Jobs of several ranks in which one fails: the others end, say who was missing, and leave what they did last.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "testing/process.hpp"
#include "testing/temporary.hpp"

namespace photon::testing {
namespace {

class Failures : public ::testing::Test {
 protected:
  ProcessResult run(int ranks, const std::string& scenario) {
    const auto begin = std::chrono::steady_clock::now();
    const ProcessResult result = Process({"mpirun", "--oversubscribe", "-np", std::to_string(ranks), COMM_FAILURES,
                                          scenario, folder_.path().string()},
                                         {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                                          {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                                          {"OMPI_MCA_odls_base_sigkill_timeout", "2"},
                                          {"ASAN_OPTIONS", "detect_leaks=0"}})
                                     .wait();
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return result;
  }
  std::string operations(int rank) const {
    const std::filesystem::path file = folder_ / ("operations-rank-" + std::to_string(rank) + ".jsonl");
    return std::filesystem::exists(file) ? read_bytes(file) : std::string();
  }
  static std::string host() {
    char name[64] = {};
    ::gethostname(name, sizeof name - 1);
    return name;
  }
  double seconds_ = 0;

 private:
  TemporaryFolder folder_;
};

void expect_holds(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in:\n" << text;
}

TEST_F(Failures, ARankThatDoesNotArriveIsNamedAtTheDeadline) {
  const ProcessResult result = run(4, "sleeps");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_LT(seconds_, 60);  // the limit is 3 s, the rank would sleep 100
  expect_holds(result.errors, "all_reduce did not finish on rank ");
  expect_holds(result.errors, "(line), host " + host() + ", in phase 'step 7'");
  expect_holds(result.errors, "s for rank 1 on host " + host() + ", the limit is 3 s");
  // Everyone's file ends with what it was doing: three ranks in the second sum of the line, rank 1 after the first.
  for (const int rank : {0, 2, 3}) {
    const std::string text = operations(rank);
    expect_holds(text, "{\"rank\": " + std::to_string(rank) + ", \"ranks\": 4, \"host\": \"" + host() + "\"");
    expect_holds(text,
                 "\"operation\": \"all_reduce\", \"communicator\": \"line\", \"bytes\": 4000, \"phase\": \"step 7\"");
    expect_holds(text.substr(text.rfind("\"number\"")), "\"end\": null}\n");
  }
  const std::string sleeper = operations(1);
  expect_holds(sleeper, "\"reason\": \"SIGTERM\"");
  EXPECT_EQ(sleeper.find("\"end\": null"), std::string::npos) << sleeper;
}

TEST_F(Failures, ARankThatDiesIsNamedLongBeforeTheDeadline) {
  const ProcessResult result = run(4, "dies");
  EXPECT_NE(result.exit_code, 0);
  EXPECT_LT(seconds_, 60);  // the limit is 100 s
  expect_holds(result.errors, "(rank 1 on host " + host() + ", process ");
  expect_holds(result.errors, ", has died) look at what that rank said last");
  for (const int rank : {0, 2, 3}) expect_holds(operations(rank), "\"communicator\": \"line\"");
  EXPECT_EQ(operations(1), "");  // nothing runs in a killed process
}

TEST_F(Failures, AMessageThatIsNotSentNamesItsSender) {
  const ProcessResult result = run(3, "loses-a-message");
  EXPECT_EQ(result.exit_code, 1);
  // Rank 2 waits for a message, and the others for rank 2.
  EXPECT_TRUE(result.errors.find("receive from rank 1 did not finish on rank 2") != std::string::npos ||
              result.errors.find("s for rank 2 on host") != std::string::npos)
      << result.errors;
  expect_holds(operations(2),
               "\"operation\": \"receive from rank 1\", \"communicator\": \"line\", \"bytes\": 4, "
               "\"peer\": 1, \"tag\": 11, ");
}

TEST_F(Failures, AnErrorEndsEveryRank) {
  const ProcessResult result = run(3, "throws");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_LT(seconds_, 60);
  expect_holds(result.errors, "rank 1 cannot go on");
  expect_holds(operations(1), "\"reason\": \"this rank gave up\"");
}

TEST_F(Failures, AnOrderlyEndLeavesNoFile) {
  EXPECT_EQ(run(3, "works").exit_code, 0);
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(operations(rank), "");
  // Not even after a signal that was answered in order.
  EXPECT_EQ(run(3, "stops").exit_code, 0);
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(operations(rank), "");
}

}  // namespace
}  // namespace photon::testing
