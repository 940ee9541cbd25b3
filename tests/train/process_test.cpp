// The photon program itself: killed, stopped, continued, and run on several ranks.
#include <gtest/gtest.h>

#include "comm/stop_signal.hpp"
#include "train_process.hpp"

namespace photon {
namespace {

using testing::expect_same_run;
using testing::metrics_of;
using testing::Process;
using testing::ProcessResult;
using testing::TrainProcess;
using testing::wait_until;

TEST_F(TrainProcess, KilledAtEveryPointOfASaveContinuesBitForBit) {
  const std::vector<std::string> changes{"train.steps=4", "train.keep_checkpoints=1", "train.eval_every=2"};
  ASSERT_EQ(train("straight", changes).exit_code, 0);
  for (const std::string point :
       {"weights.begin", "weights.data", "weights.rename", "weights.done", "checkpoint.begin", "checkpoint.data",
        "checkpoint.manifest", "checkpoint.rename", "checkpoint.latest", "checkpoint.trash", "checkpoint.done"}) {
    const std::string run = "run-" + point;
    // The second save replaces something; the trash is emptied once.
    const std::string fault = point == "checkpoint.trash" ? point : point + ":2";
    const ProcessResult killed = train(run, changes, {{"PHOTON_FAULT", fault}});
    EXPECT_EQ(killed.signal, SIGKILL) << point << ": " << killed.errors;
    const ProcessResult continued = train(run, changes);
    EXPECT_EQ(continued.exit_code, 0) << point << ": " << continued.errors;
    SCOPED_TRACE(point);
    expect_same_run(data_ / run, data_ / "straight");
  }
}

TEST_F(TrainProcess, StopsOnSignalsWithItsOwnExitCodeAndGoesOn) {
  const std::vector<std::string> endless{"train.steps=1000000", "train.eval_every=0", "train.checkpoint_every=0"};
  std::size_t before = 0;
  for (const int signal : {SIGTERM, SIGUSR1}) {
    Process process(command("run", endless), {{"OMP_NUM_THREADS", "1"}});
    wait_until([&] { return num_steps("run") > before + 2; });
    process.send(signal);
    const ProcessResult result = process.wait();
    EXPECT_EQ(result.exit_code, 75) << result.errors;
    EXPECT_NE(result.errors.find(std::string("stopped by ") + StopSignal::name(signal)), std::string::npos)
        << result.errors;
    EXPECT_NE(result.errors.find("start the same command again to go on"), std::string::npos) << result.errors;
    const auto lines = metrics_of(data_ / "run");
    for (std::size_t i = 0; i < lines.size(); ++i) ASSERT_EQ(lines[i]["step"], i + 1);
    EXPECT_GT(lines.size(), before + 2);
    before = lines.size();
  }
}

TEST_F(TrainProcess, SaysThatAFinishedRunIsFinished) {
  ASSERT_EQ(train("run", {"train.steps=2"}).exit_code, 0);
  const ProcessResult again = train("run", {"train.steps=2"});
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_NE(again.errors.find("is finished: step 2 of 2"), std::string::npos) << again.errors;
}

TEST_F(TrainProcess, SeveralRanksTrainAsOneProcess) {
  ASSERT_EQ(train("one").exit_code, 0);
  for (const int ranks : {2, 3}) {
    const std::string run = "ranks-" + std::to_string(ranks);
    const ProcessResult result = mpi_train(ranks, run);
    ASSERT_EQ(result.exit_code, 0) << result.errors;
    SCOPED_TRACE(run);
    expect_close_runs(run, "one");
    EXPECT_TRUE(std::filesystem::exists(data_ / run / "logs" / ("rank-" + std::to_string(ranks - 1) + ".log")));
  }
}

TEST_F(TrainProcess, SeveralRanksFindTheirWeightsEqual) {
  const ProcessResult result = mpi_train(2, "two", {"train.steps=3", "train.check_replicas_every=1"});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
}

TEST_F(TrainProcess, SeveralRanksShareTheMeanOfMaskedTokens) {
  const std::vector<std::string> changes{"data.train=" + data_.masked().string(), "train.steps=3",
                                         "train.checkpoint_every=0"};
  ASSERT_EQ(train("one", changes).exit_code, 0);
  const ProcessResult result = mpi_train(2, "two", changes);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  expect_close_runs("two", "one");
}

TEST_F(TrainProcess, ContinuesOnAnotherNumberOfRanks) {
  ASSERT_EQ(train("one").exit_code, 0);
  ASSERT_EQ(mpi_train(3, "run").exit_code, 0);
  for (const char* step : {"step-6", "step-4"}) std::filesystem::remove_all(data_ / "run" / "checkpoints" / step);
  const ProcessResult result = train("run");
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_NE(result.errors.find("continuing after step 2 of 6"), std::string::npos) << result.errors;
  expect_close_runs("run", "one");
}

TEST_F(TrainProcess, ASignalToOneRankStopsAll) {
  Process process(mpi_command(2, "run", {"train.steps=1000000", "train.eval_every=0", "train.checkpoint_every=0"}),
                  mpi_environment());
  wait_until([&] { return num_steps("run") > 2; });
  const std::vector<pid_t> ranks = process.children();
  ASSERT_EQ(ranks.size(), 2U);
  ::kill(ranks.back(), SIGTERM);
  const ProcessResult result = process.wait();
  EXPECT_EQ(result.exit_code, 75) << result.errors;
  EXPECT_NE(result.errors.find("which is saved; start the same command again"), std::string::npos) << result.errors;
  EXPECT_FALSE(testing::names_in(data_ / "run" / "checkpoints").empty());
}

TEST_F(TrainProcess, AnErrorEndsEveryRankAndIsToldOnce) {
  const ProcessResult result = mpi_train(4, "run");
  EXPECT_EQ(result.exit_code, 2) << result.errors;
  const std::string message = "train.batch_size 6 cannot be split over 4 ranks";
  const auto first = result.errors.find(message);
  ASSERT_NE(first, std::string::npos) << result.errors;
  EXPECT_EQ(result.errors.find(message, first + 1), std::string::npos) << result.errors;
}

}  // namespace
}  // namespace photon
