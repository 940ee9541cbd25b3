#include "train/learning_rate.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "support/error.hpp"

namespace photon {
namespace {

TrainConfig config_of(Schedule schedule, std::int64_t steps, std::int64_t warmup) {
  TrainConfig config;
  config.schedule = schedule;
  config.steps = steps;
  config.warmup_steps = warmup;
  config.learning_rate = 1e-3;
  config.min_learning_rate = 1e-4;
  config.decay_fraction = 0.25;
  return config;
}

TEST(LearningRate, WarmsUpLinearly) {
  for (const Schedule schedule : {Schedule::cosine, Schedule::wsd}) {
    const TrainConfig config = config_of(schedule, 100, 10);
    EXPECT_DOUBLE_EQ(learning_rate(config, 1), 1e-4);
    EXPECT_DOUBLE_EQ(learning_rate(config, 5), 5e-4);
    EXPECT_DOUBLE_EQ(learning_rate(config, 10), 1e-3);
    EXPECT_LE(learning_rate(config, 11), 1e-3);
  }
}

TEST(LearningRate, FollowsHalfACosine) {
  const TrainConfig config = config_of(Schedule::cosine, 110, 10);
  EXPECT_NEAR(learning_rate(config, 60), (1e-3 + 1e-4) / 2, 1e-15);  // half way
  EXPECT_NEAR(learning_rate(config, 35), 1e-4 + 9e-4 * (1 + std::numbers::sqrt2 / 2) / 2, 1e-15);
  EXPECT_DOUBLE_EQ(learning_rate(config, 110), 1e-4);
  EXPECT_DOUBLE_EQ(learning_rate(config, 500), 1e-4);
}

TEST(LearningRate, StaysThenDecaysLinearly) {
  const TrainConfig config = config_of(Schedule::wsd, 100, 10);
  EXPECT_DOUBLE_EQ(learning_rate(config, 11), 1e-3);
  EXPECT_DOUBLE_EQ(learning_rate(config, 75), 1e-3);
  EXPECT_NEAR(learning_rate(config, 80), 1e-3 - 9e-4 * 5 / 25, 1e-15);
  EXPECT_DOUBLE_EQ(learning_rate(config, 100), 1e-4);
}

TEST(LearningRate, TakesExtremeSchedules) {
  TrainConfig config = config_of(Schedule::cosine, 1, 0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 1), 1e-4);
  config = config_of(Schedule::wsd, 10, 10);  // nothing but warm-up
  EXPECT_DOUBLE_EQ(learning_rate(config, 10), 1e-3);
  config = config_of(Schedule::wsd, 10, 5);
  config.decay_fraction = 1;  // the decay begins when the warm-up ends
  EXPECT_NEAR(learning_rate(config, 6), 1e-3 - 9e-4 / 5, 1e-15);
  for (std::int64_t step = 1; step <= 10; ++step) EXPECT_TRUE(std::isfinite(learning_rate(config, step)));
  EXPECT_THROW(learning_rate(config, 0), ContractError);
}

}  // namespace
}  // namespace photon
