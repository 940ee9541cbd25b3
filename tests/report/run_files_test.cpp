#include "report/run_files.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "report/layout.hpp"
#include "run_folder.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

using testing::RunFolderFixture;

TEST(RunFiles, SayWhatTheRunDid) {
  const RunFolderFixture folder;
  const RunFiles run = read_run(folder.path(), {});
  EXPECT_EQ(run.last_step, 9);
  EXPECT_EQ(run.skipped, (std::vector<std::int64_t>{5}));
  EXPECT_EQ(run.config.train.steps, 10);
  ASSERT_NE(run.curve("loss"), nullptr);
  EXPECT_EQ(run.curve("loss")->steps.size(), 9U);
  EXPECT_EQ(run.curve("loss")->values[1], 2.5);
  EXPECT_TRUE(std::isnan(run.curve("loss")->values[4]));
  EXPECT_EQ(run.curve("val_bits_per_byte")->steps, (std::vector<std::int64_t>{3, 6, 9}));
  EXPECT_EQ(run.curve("val_rec"), nullptr);
  EXPECT_EQ(run.curve("rec level 1"), nullptr);  // there is but one: it is rec
  EXPECT_EQ(run.median_tokens_per_second, 9605);
  EXPECT_NEAR(run.seconds, 0.09, 1e-12);
  EXPECT_EQ(run.ranks.num_steps, 9);
  EXPECT_NEAR(run.ranks.compute[1], 9 * 0.005, 1e-12);
  EXPECT_EQ(run.ranks.slowest, (std::vector<std::int64_t>{0, 0, 9, 0}));
  EXPECT_NEAR(run.curve("not_compute")->values[0], 1 - 18.0 / 32, 1e-12);
  ASSERT_EQ(run.checkpoints.size(), 2U);
  EXPECT_EQ(run.checkpoints[0].step, 4);
  EXPECT_EQ(run.checkpoints[0].bytes, 1000U);
  EXPECT_FALSE(run.checkpoints[0].complete);
  EXPECT_TRUE(run.checkpoints[1].complete);
  ASSERT_TRUE(run.trace.has_value());
  EXPECT_EQ(run.trace->tracks.size(), 4U);
}

TEST(RunFiles, ARunMayHaveBegunOnly) {
  const RunFolderFixture folder;
  for (const char* name : {"metrics.jsonl", "trace.json", "checkpoints", "logs"}) {
    std::filesystem::remove_all(folder.path() / name);
  }
  const RunFiles run = read_run(folder.path(), {});
  EXPECT_EQ(run.last_step, 0);
  EXPECT_TRUE(run.curves.empty());
  EXPECT_FALSE(run.trace.has_value());
}

TEST(RunFiles, OtherFoldersAreRefused) {
  const RunFolderFixture folder;
  try {
    read_run(folder.path() / "logs", {});
    FAIL();
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("logs is not a run folder (it has no config.yaml)"), std::string::npos)
        << error.what();
  }
  EXPECT_THROW(read_run(folder.path(), folder.beside("none.json")), InputError);
}

TEST(ThinnedSeries, KeepsTheExtremesAndWhatIsNotFinite) {
  Series series;
  for (std::int64_t step = 1; step <= 10007; ++step) series.add(step, std::sin(static_cast<double>(step) * 0.01));
  series.values[4999] = 100;
  series.values[7001] = -50;
  series.values[123] = std::numeric_limits<double>::quiet_NaN();
  const Series few = thinned(series, 100);
  EXPECT_LE(few.steps.size(), 101U);
  EXPECT_TRUE(std::is_sorted(few.steps.begin(), few.steps.end()));
  const auto value_at = [&](std::int64_t step) {
    const auto found = std::find(few.steps.begin(), few.steps.end(), step);
    EXPECT_NE(found, few.steps.end()) << step;
    return found == few.steps.end() ? 0 : few.values[static_cast<std::size_t>(found - few.steps.begin())];
  };
  EXPECT_EQ(value_at(5000), 100);
  EXPECT_EQ(value_at(7002), -50);
  EXPECT_TRUE(std::isnan(value_at(124)));
  EXPECT_EQ(thinned(few, 200).steps, few.steps);
}

TEST(Layout, IsPredictedFromTheMeasuredRate) {
  const RunFolderFixture folder;
  const RunFiles run = read_run(folder.path(), {});
  const RunLayout layout = layout_of(run, 4, "");
  ASSERT_TRUE(layout.prediction.has_value());
  EXPECT_EQ(layout.plan.shards, 3);
  // The rate was fitted so that all ranks together compute as long as they did.
  double compute = 0;
  for (const RankTimes& rank : layout.prediction->simulation.ranks) compute += rank.compute;
  EXPECT_NEAR(compute, 0.018, 1e-9);
  const auto json = prediction_json(layout, run.config.model);
  EXPECT_EQ(json["ranks"].size(), 4U);
  EXPECT_EQ(json["rank_seconds"].size(), 4U);
  EXPECT_EQ(json["seconds"].get<double>(), layout.prediction->seconds);
  EXPECT_THROW(layout_of(run, 3, ""), InputError);  // a replica is four ranks
}

TEST(Timeline, ShowsTheQuickestStep) {
  const auto json = timeline_json(RunFolderFixture::trace());
  EXPECT_EQ(json["step"], 3);
  EXPECT_NEAR(json["seconds"].get<double>(), 0.02, 1e-12);
  EXPECT_EQ(json["uncertainty_us"], 3);
  ASSERT_EQ(json["ranks"].size(), 4U);
  const auto& spans = json["ranks"][1]["spans"];
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[0], (nlohmann::json{"forward 0", "compute", 1000, 8000}));
  EXPECT_EQ(spans[2], (nlohmann::json{"wait for ranks", "wait", 10000, 1000}));
}

}  // namespace
}  // namespace photon
