#include "train/background_save.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <memory>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "storage/publish.hpp"
#include "support/error.hpp"
#include "testing/temporary.hpp"

namespace photon {
namespace {
namespace fs = std::filesystem;
using testing::TemporaryFolder;

// Two ranks in one process, each with half of one tensor, and the flags that would travel between them.
class TwoRanks : public ::testing::Test {
 protected:
  TwoRanks() {
    config_.type = ModelType::vanilla;
    config_.vocab_size = 3;
    config_.dim = 2;
    config_.stack = {1, 1, 1, 2, 10000.0, 0};
    for (std::size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(i) + 0.5F;
  }

  ~TwoRanks() override {
    try {
      may_write_.set_value();  // where a test ended early
    } catch (const std::future_error&) {
    }
  }

  // Begins the save of a step; rank 1 writes when `may_write` is set.
  void begin(std::int64_t step, bool beside = true) {
    may_write_ = std::promise<void>();
    ranks_.clear();
    for (int rank = 0; rank < 2; ++rank) {
      TrainState state;
      state.step = step;
      const std::vector<TensorPiece> pieces{{"parameters/w", {6}, 3 * rank, host_view(values_.data() + 3 * rank, {3})}};
      CheckpointSave save(folder_ / "run", config_, state, pieces,
                          {.keep = 2, .tokenizer_file = {}, .rank = rank, .num_ranks = 2, .all_succeed = {}});
      if (rank == 0) save.prepare();
      std::function<void()> before = [] {};
      if (rank == 1) before = [go = may_write_.get_future().share()] { go.get(); };
      ranks_.push_back(std::make_unique<BackgroundSave>(std::move(save), step, rank == 0, beside, before));
    }
  }
  // What the ranks do once a step; returns whether the save is over, on both alike.
  bool exchange() {
    const bool busy0 = ranks_[0]->busy();
    const bool busy1 = ranks_[1]->busy();
    const bool failed = ranks_[0]->failed() || ranks_[1]->failed();
    const bool over = ranks_[0]->advance(busy0 || busy1, failed);
    EXPECT_EQ(ranks_[1]->advance(busy0 || busy1, failed), over);
    return over;
  }
  void wait() {
    for (const auto& rank : ranks_) rank->wait();
  }
  // The step that a start now would find; -1 for none.
  std::int64_t newest() const {
    std::vector<float> read(6);
    const std::vector<TensorTarget> targets{{"parameters/w", {6}, 0, TensorView(host_view(read.data(), {6}))}};
    const auto state = load_latest_checkpoint(folder_ / "run", config_, targets);
    if (!state) return -1;
    EXPECT_EQ(read, values_);
    return state->step;
  }

  const TemporaryFolder folder_;
  ModelConfig config_;
  std::vector<float> values_ = std::vector<float>(6);
  std::promise<void> may_write_;
  std::vector<std::unique_ptr<BackgroundSave>> ranks_;
};

TEST_F(TwoRanks, PublishOnceBothHaveWritten) {
  begin(1);
  for (int step = 0; step < 3; ++step) EXPECT_FALSE(exchange());
  ranks_[0]->wait();  // has written; rank 1 has not
  EXPECT_FALSE(exchange());
  EXPECT_EQ(newest(), -1);
  may_write_.set_value();
  wait();
  EXPECT_FALSE(exchange());  // rank 0 begins to publish
  wait();
  EXPECT_TRUE(exchange());
  EXPECT_EQ(newest(), 1);
  EXPECT_EQ(read_text_file(folder_ / "run" / "LATEST"), "step-1\n");
  for (const auto& rank : ranks_) {
    EXPECT_EQ(rank->outcome().step, 1);
    EXPECT_TRUE(rank->outcome().problem.empty()) << rank->outcome().problem;
  }
}

// Whatever dies before the manifest is there, the checkpoint before stays the newest.
TEST_F(TwoRanks, LeaveTheOldCheckpointUntilThen) {
  begin(1);
  may_write_.set_value();
  wait();
  EXPECT_FALSE(exchange());
  wait();
  EXPECT_TRUE(exchange());
  begin(2);
  ranks_[0]->wait();
  EXPECT_EQ(newest(), 1);
  may_write_.set_value();
  wait();
  EXPECT_EQ(newest(), 1);  // written, not published
  ranks_.clear();          // as if both died here
  EXPECT_EQ(newest(), 1);
  begin(3);
  EXPECT_FALSE(fs::exists(folder_ / "run" / "checkpoints" / "step-2.tmp"));
  may_write_.set_value();
  wait();
  EXPECT_FALSE(exchange());
  wait();
  EXPECT_TRUE(exchange());
  EXPECT_EQ(newest(), 3);
}

TEST_F(TwoRanks, FailTogether) {
  begin(1);
  may_write_.set_exception(std::make_exception_ptr(Error("the disk is full", "it has no room", "make some")));
  wait();
  EXPECT_TRUE(exchange());
  EXPECT_NE(ranks_[1]->outcome().problem.find("the disk is full"), std::string::npos) << ranks_[1]->outcome().problem;
  EXPECT_EQ(ranks_[0]->outcome().problem, "another rank failed; see the message of that rank");
  EXPECT_FALSE(fs::exists(folder_ / "run" / "checkpoints" / "step-1.tmp"));
  EXPECT_EQ(newest(), -1);
}

TEST_F(TwoRanks, WithoutAThreadWaitDoesTheWork) {
  begin(1, false);
  may_write_.set_value();
  wait();
  EXPECT_FALSE(exchange());
  wait();
  EXPECT_TRUE(exchange());
  EXPECT_EQ(newest(), 1);
}

}  // namespace
}  // namespace photon
