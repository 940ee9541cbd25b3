// Layouts with stages and shards against one process.
#include <gtest/gtest.h>

#include <cstring>

#include "checkpoint/checkpoint.hpp"
#include "train_process.hpp"

namespace photon {
namespace {

using testing::metrics_of;
using testing::ProcessResult;

class Pipeline : public testing::TrainProcess {
 protected:
  struct Layout {
    int ranks;
    std::vector<std::string> keys;
  };
  static std::vector<std::string> join(std::vector<std::string> a, const std::vector<std::string>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  // Every layout trains as one process does, evaluation included.
  void expect_equal(const std::vector<Layout>& layouts, const std::vector<std::string>& changes) const {
    const std::vector<std::string> common = join({"train.steps=3", "train.checkpoint_every=0"}, changes);
    const ProcessResult one = train("one", common);
    ASSERT_EQ(one.exit_code, 0) << one.errors;
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      const std::string run = "layout-" + std::to_string(i);
      SCOPED_TRACE(run);
      const ProcessResult result = mpi_train(layouts[i].ranks, run, join(common, layouts[i].keys));
      ASSERT_EQ(result.exit_code, 0) << result.errors;
      expect_close_runs(run, "one");
    }
  }
};

TEST_F(Pipeline, EveryLayoutTrainsAsOneProcess) {
  // Microbatches of 1 and 2 sequences of 4 groups, so that shards cut sequences, and take unequal parts of them.
  expect_equal({{2, {"parallel.stages=2"}},
                {4, {"parallel.stages=2", "parallel.shards=3", "parallel.cut=decoder1", "parallel.microbatch_size=2"}},
                {4, {"parallel.stages=2", "parallel.shards=3", "parallel.cut=decoder2", "parallel.microbatch_size=1"}},
                {4, {"parallel.stages=3", "parallel.shards=2", "parallel.cut=encoder2,decoder2"}},
                {4, {"parallel.stages=4", "parallel.microbatch_size=1"}},
                {6, {"parallel.stages=2", "parallel.shards=2", "parallel.cut=decoder2", "parallel.data=2"}}},
               {});
}

// The same products and sums, at other times.
TEST_F(Pipeline, SplitBackwardsTrainToTheSameBits) {
  const std::vector<Layout> layouts{
      {2, {"parallel.stages=2", "parallel.microbatch_size=1"}},
      {4, {"parallel.stages=2", "parallel.shards=3", "parallel.cut=decoder1", "parallel.microbatch_size=1"}},
      {4, {"parallel.stages=3", "parallel.shards=2", "parallel.cut=encoder2,decoder2", "parallel.zero=1"}}};
  for (const Layout& layout : layouts) {
    const auto run = [&](const std::string& split) {
      std::filesystem::remove_all(data_ / split);
      const ProcessResult result = mpi_train(
          layout.ranks, split,
          join({"train.steps=3", "train.checkpoint_every=0", "parallel.split_backward=" + split}, layout.keys));
      EXPECT_EQ(result.exit_code, 0) << result.errors;
      return metrics_of(data_ / split);
    };
    const auto whole = run("off");
    const auto split = run("on");
    ASSERT_EQ(whole.size(), 3U);
    ASSERT_EQ(split.size(), 3U);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      for (const char* key : {"loss", "grad_norm"}) EXPECT_EQ(whole[i][key], split[i][key]) << "step " << i + 1;
    }
    const LoadedModel a = load_weights(data_ / "off" / "model");
    const LoadedModel b = load_weights(data_ / "on" / "model");
    EXPECT_EQ(std::memcmp(a.parameters.flat().host<float>(), b.parameters.flat().host<float>(),
                          static_cast<std::size_t>(a.parameters.flat().bytes())),
              0);
  }
  const ProcessResult refused =
      mpi_train(2, "both", join(layouts[0].keys, {"parallel.split_backward=on", "parallel.recompute=layers"}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.errors.find("parallel.split_backward is on (parallel.recompute is layers"), std::string::npos)
      << refused.errors;
}

TEST_F(Pipeline, WithATiedHeadLookbackAMaskAndPadding) {
  expect_equal({{4, {"parallel.stages=2", "parallel.shards=3", "parallel.microbatch_size=3"}},
                {3, {"parallel.stages=3", "parallel.cut=encoder2,decoder1"}}},
               {"model.tie_embeddings=true", "model.lookback=3", "train.sequence_length=18",
                "train.rec_stop_gradient=false", "data.train=" + data_.masked().string()});
}

TEST_F(Pipeline, OneLevelAndThree) {
  const std::string level =
      "{dim: 8, chunk: 2, prefix: 1, encoder: {layers: 1, heads: 2, ffn: 16}, "
      "decoder: {layers: 1, heads: 2, ffn: 16}}";
  expect_equal({{3, {"parallel.stages=2", "parallel.shards=2"}}}, {"model.levels=[" + level + "]"});
  std::filesystem::remove_all(data_ / "one");
  std::filesystem::remove_all(data_ / "layout-0");
  expect_equal({{5, {"parallel.stages=4", "parallel.shards=2", "parallel.cut=encoder3,decoder3,decoder2"}},
                {4, {"parallel.stages=3", "parallel.shards=2", "parallel.cut=encoder2,decoder1"}}},
               {"model.levels=[" + level + ", " + level + ", " + level + "]"});
}

TEST_F(Pipeline, StagesCutInsideStacks) {
  const std::string level =
      "{dim: 8, chunk: 2, prefix: 1, encoder: {layers: 2, heads: 2, ffn: 16}, "
      "decoder: {layers: 3, heads: 2, ffn: 16}}";
  expect_equal({{4, {"parallel.stages=3", "parallel.shards=2", "parallel.cut=encoder2.1,decoder1.1"}},
                {5, {"parallel.stages=5", "parallel.cut=encoder1.1,encoder2.1,decoder2.2,decoder1.2"}}},
               {"model.levels=[" + level + ", " + level + "]", "model.tie_embeddings=true"});
}

TEST_F(Pipeline, VanillaModelsInStagesByLayer) {
  testing::write_bytes(data_ / "tiny.yaml",
                       "model: {model_type: vanilla, vocab_size: 259, dim: 8, layers: 3, heads: 2, ffn: 16}\n" +
                           data_.yaml().substr(data_.yaml().find("data:")));
  expect_equal({{3, {"parallel.stages=3"}}, {4, {"parallel.stages=2", "parallel.cut=layer.2"}}}, {});
  std::filesystem::remove_all(data_ / "one");
  std::filesystem::remove_all(data_ / "layout-0");
  expect_equal({{3, {"parallel.stages=3"}}}, {"model.tie_embeddings=true"});
}

TEST_F(Pipeline, TwentyStepsStayWithinRounding) {
  const std::string encoders_and_shards = "parallel.cut=encoder2,decoder2";
  expect_equal({{8, {"parallel.zero=1", "parallel.microbatch_size=1"}},
                {8, {"parallel.stages=3", "parallel.shards=2", encoders_and_shards, "parallel.zero=1"}}},
               {"train.steps=20", "train.batch_size=8", "train.learning_rate=0.003"});
}

TEST_F(Pipeline, TheQuickstartOnFourRanksTrainsAsOneProcess) {
  const std::string file = std::string(PHOTON_SOURCE_DIR) + "/configs/train/quickstart-pipeline.yaml";
  const auto words = [&](const std::string& run, const std::vector<std::string>& changes) {
    std::vector<std::string> command{PHOTON_BINARY, "train", "--config", file, "--run", (data_ / run).string()};
    for (const std::string& change :
         join({"data.train=" + (data_ / "data" / "train.h5").string(), "data.val=[]", "model.tokenizer=byte",
               "model.vocab_size=259", "train.steps=3", "train.sequence_length=64", "train.warmup_steps=2"},
              changes)) {
      command.insert(command.end(), {"--set", change});
    }
    return command;
  };
  std::vector<std::string> four{"mpirun", "--oversubscribe", "-np", "4"};
  for (const std::string& word : words("four", {})) four.push_back(word);
  const ProcessResult ranks = testing::Process(four, mpi_environment()).wait();
  ASSERT_EQ(ranks.exit_code, 0) << ranks.errors;
  EXPECT_NE(ranks.errors.find("decoder2, decoder1, 3 shards"), std::string::npos) << ranks.errors;
  const ProcessResult one =
      testing::Process(words("one", {"parallel.stages=1", "parallel.shards=1", "parallel.cut=''"}), {}).wait();
  ASSERT_EQ(one.exit_code, 0) << one.errors;
  expect_close_runs("four", "one");
}

// What several ranks saved of a tensor is what one of them held.
TEST_F(Pipeline, SharedMomentsAreSavedAsWholeTensors) {
  const std::vector<std::string> layout{"parallel.stages=2", "parallel.shards=2", "parallel.cut=decoder2"};
  ASSERT_EQ(mpi_train(6, "each", layout).exit_code, 0);
  const ProcessResult shared = mpi_train(6, "shared", join(layout, {"parallel.zero=1"}));
  ASSERT_EQ(shared.exit_code, 0) << shared.errors;
  const RunConfig config = data_.config();
  const auto state_of = [&](const char* run) {
    std::vector<Parameters> state;
    for (const char* group : {parameter_group, first_moment_group, second_moment_group}) {
      state.emplace_back(config.model, Space::host);
      read_checkpoint_tensors(data_ / run / "checkpoints" / "step-6", targets_of(group, state.back()));
    }
    return state;
  };
  const std::vector<Parameters> each = state_of("each");
  const std::vector<Parameters> divided = state_of("shared");
  for (std::size_t i = 0; i < each.size(); ++i) {
    for (const ParameterSpec& spec : each[i].specs()) {
      SCOPED_TRACE(spec.name);
      EXPECT_CLOSE(divided[i].view(spec.name).host<float>(), each[i].view(spec.name).host<float>(), spec.numel(), 1e-6);
    }
  }
}

TEST_F(Pipeline, AnyLayoutContinuesWhatAnotherSaved) {
  ASSERT_EQ(train("one").exit_code, 0);
  const auto remove = [&](const std::string& step) {
    std::filesystem::remove_all(data_ / "run" / "checkpoints" / ("step-" + step));
  };
  const auto expect_continued = [&](const ProcessResult& result, const std::string& step) {
    ASSERT_EQ(result.exit_code, 0) << result.errors;
    EXPECT_NE(result.errors.find("continuing after step " + step + " of 6"), std::string::npos) << result.errors;
    expect_close_runs("run", "one");
  };
  const ProcessResult first = mpi_train(4, "run", {"parallel.stages=2", "parallel.shards=3", "parallel.cut=decoder2"});
  ASSERT_EQ(first.exit_code, 0) << first.errors;
  remove("6");
  remove("4");
  expect_continued(mpi_train(2, "run", {"parallel.stages=2", "parallel.cut=encoder2"}), "2");
  remove("6");
  expect_continued(mpi_train(3, "run", {"parallel.stages=2", "parallel.shards=2", "parallel.zero=1"}), "4");
  remove("6");
  remove("4");
  expect_continued(mpi_train(3, "run", {"parallel.zero=1", "parallel.microbatch_size=1"}), "2");
  remove("6");
  expect_continued(train("run"), "4");
}

TEST_F(Pipeline, ContinuesBitForBitOnTheSameLayout) {
  const std::vector<std::string> layout{"parallel.stages=2", "parallel.shards=2", "parallel.cut=decoder2",
                                        "parallel.zero=1"};
  ASSERT_EQ(mpi_train(6, "straight", layout).exit_code, 0);
  ASSERT_EQ(mpi_train(6, "run", layout).exit_code, 0);
  for (const char* step : {"step-6", "step-4"}) std::filesystem::remove_all(data_ / "run" / "checkpoints" / step);
  const ProcessResult result = mpi_train(6, "run", layout);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  testing::expect_same_run(data_ / "run", data_ / "straight");
}

}  // namespace
}  // namespace photon
