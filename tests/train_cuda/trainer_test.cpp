// Training on a GPU: the same losses as on the host, and the same bits after a restart.
#include "train/trainer.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "../train/tiny_run.hpp"
#include "comm/world.hpp"
#include "kernels/quantize.hpp"
#include "train/throughput.hpp"

namespace photon {
namespace {

using testing::metrics_of;
using testing::TinyData;
using testing::weights_of;

class GpuTraining : public ::testing::Test {
 protected:
  void SetUp() override {
    if (device::count() == 0) GTEST_SKIP() << "this machine has no GPU";
  }
  std::filesystem::path train(const std::string& name, const std::vector<std::string>& overrides) {
    TrainOptions options;
    options.run = data_ / name;
    World world;
    Trainer(world, data_.config(overrides), options).run();
    return options.run;
  }

  // Of a model and batch whose products are computed in 8-bit floats by train.precision fp8.
  std::filesystem::path train_larger(const std::string& name, const std::vector<std::string>& overrides) {
    std::string yaml = data_.yaml();
    for (const auto& [from, to] :
         {std::pair{"dim: 8", "dim: 64"}, std::pair{"dim: 12", "dim: 96"}, std::pair{"ffn: 16", "ffn: 128"},
          std::pair{"batch_size: 6, sequence_length: 16", "batch_size: 72, sequence_length: 256"}}) {
      for (std::size_t at = yaml.find(from); at != std::string::npos; at = yaml.find(from, at + 1)) {
        yaml.replace(at, std::string(from).size(), to);
      }
    }
    TrainOptions options;
    options.run = data_ / name;
    World world;
    Trainer(world, parse_run_config(yaml, "larger.yaml", overrides), options).run();
    return options.run;
  }

  TinyData data_;
};

std::vector<std::string> with(std::vector<std::string> settings, std::initializer_list<std::string> more) {
  settings.insert(settings.end(), more);
  return settings;
}

// The schedule depends on the number of steps; a run that is made longer must find the rate it had.
const std::array<std::string, 3> constant_rate{"train.learning_rate=0.003", "train.min_learning_rate=0.003",
                                               "train.warmup_steps=0"};

TEST_F(GpuTraining, LossesFollowTheHost) {
  const std::vector<std::string> settings{"train.steps=20", "train.eval_every=0", "train.checkpoint_every=0"};
  const auto host = metrics_of(train("host", with(settings, {"train.device=cpu"})));
  ASSERT_EQ(host.size(), 20U);
  for (const auto& [precision, tolerance] : {std::pair{"fp32", 1e-4}, std::pair{"bf16", 2e-2}}) {
    const auto gpu = metrics_of(
        train(precision, with(settings, {"train.device=cuda", std::string("train.precision=") + precision})));
    ASSERT_EQ(gpu.size(), 20U);
    for (std::size_t i = 0; i < 20; ++i) {
      const double expected = host[i]["loss"];
      EXPECT_NEAR(gpu[i]["loss"].get<double>(), expected, tolerance * expected) << precision << " step " << i + 1;
      EXPECT_EQ(gpu[i]["tokens"], host[i]["tokens"]);
    }
    EXPECT_NEAR(gpu.back()["val_loss"].get<double>(), host.back()["val_loss"].get<double>(), 2e-2) << precision;
  }
}

TEST_F(GpuTraining, ContinuesBitForBit) {
  for (const std::string precision : {"fp32", "bf16"}) {
    const std::vector<std::string> settings{"train.device=cuda",        "train.precision=" + precision,
                                            "train.deterministic=true", "parallel.microbatch_size=3",
                                            "train.checkpoint_every=3", constant_rate[0],
                                            constant_rate[1],           constant_rate[2]};
    const auto straight = train("straight_" + precision, with(settings, {"train.steps=9"}));
    train("parts_" + precision, with(settings, {"train.steps=4"}));
    const auto parts = train("parts_" + precision, with(settings, {"train.steps=9"}));
    EXPECT_FALSE(weights_of(straight).empty());
    EXPECT_TRUE(weights_of(straight) == weights_of(parts)) << precision;
    const auto a = metrics_of(straight);
    const auto b = metrics_of(parts);
    ASSERT_EQ(a.size(), 9U);
    ASSERT_EQ(b.size(), 9U);
    for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(a[i]["loss"], b[i]["loss"]) << precision << " step " << i + 1;
  }
}

TEST_F(GpuTraining, LearnsInEightBitFloatsAsInBf16) {
  if (!cuda::has_float8()) GTEST_SKIP() << "this GPU has no 8-bit floats";
  const std::vector<std::string> settings{
      "train.device=cuda", "train.steps=40", "train.eval_every=0", "train.checkpoint_every=0",
      constant_rate[0],    constant_rate[1], constant_rate[2]};
  const auto full = metrics_of(train_larger("bf16", with(settings, {"train.precision=bf16"})));
  const auto eight = metrics_of(train_larger("fp8", with(settings, {"train.precision=fp8"})));
  ASSERT_EQ(full.size(), 40U);
  ASSERT_EQ(eight.size(), 40U);
  // The same start; later steps of two roundings part, and the losses of single batches with them.
  double sum = 0;
  double expected_sum = 0;
  for (std::size_t i = 0; i < 40; ++i) {
    const double expected = full[i]["loss"];
    const double loss = eight[i]["loss"];
    if (i < 10) {
      EXPECT_NEAR(loss, expected, 5e-2 * expected) << "step " << i + 1;
    }
    ASSERT_TRUE(std::isfinite(loss)) << "step " << i + 1;
    sum += loss;
    expected_sum += expected;
  }
  EXPECT_NEAR(sum, expected_sum, 0.1 * expected_sum);
  EXPECT_LT(eight.back()["loss"].get<double>(), 0.7 * eight.front()["loss"].get<double>());
  EXPECT_NE(eight.back()["loss"], full.back()["loss"]);
}

TEST_F(GpuTraining, ContinuesBitForBitInEightBitFloats) {
  if (!cuda::has_float8()) GTEST_SKIP() << "this GPU has no 8-bit floats";
  for (const std::string deterministic : {"true", "false"}) {
    const std::vector<std::string> settings{"train.device=cuda",
                                            "train.precision=fp8",
                                            "train.checkpoint_every=3",
                                            "train.deterministic=" + deterministic,
                                            "parallel.microbatch_size=36",
                                            constant_rate[0],
                                            constant_rate[1],
                                            constant_rate[2]};
    const auto straight = train_larger("straight_" + deterministic, with(settings, {"train.steps=7"}));
    train_larger("parts_" + deterministic, with(settings, {"train.steps=4"}));
    // The algorithms that one run measured are the other's too.
    const auto parts = train_larger("parts_" + deterministic, with(settings, {"train.steps=7"}));
    const auto a = metrics_of(straight);
    const auto b = metrics_of(parts);
    ASSERT_EQ(a.size(), 7U);
    ASSERT_EQ(b.size(), 7U);
    for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(a[i]["loss"], b[i]["loss"]) << "step " << i + 1;
    EXPECT_TRUE(weights_of(straight) == weights_of(parts));
  }
}

TEST_F(GpuTraining, ContinuesWhatTheHostBegan) {
  const std::vector<std::string> settings{constant_rate[0], constant_rate[1], constant_rate[2], "train.eval_every=0"};
  const auto host = train("host", with(settings, {"train.device=cpu", "train.steps=8"}));
  train("both", with(settings, {"train.device=cpu", "train.steps=4"}));
  const auto both = train("both", with(settings, {"train.device=cuda", "train.steps=8"}));
  const auto a = metrics_of(host);
  const auto b = metrics_of(both);
  ASSERT_EQ(b.size(), 8U);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_NEAR(b[i]["loss"].get<double>(), a[i]["loss"].get<double>(), 1e-4 * a[i]["loss"].get<double>());
  }
}

TEST_F(GpuTraining, RefusesWhatDoesNotFit) {
  try {
    train("large", {"train.device=cuda", "train.batch_size=1048576", "train.sequence_length=1024",
                    "parallel.microbatch_size=1048576"});
    FAIL() << "it was accepted";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("of GPU memory a rank"), std::string::npos) << error.what();
  }
}

TEST_F(GpuTraining, MeasuresThroughput) {
  RunConfig config = data_.config({"train.device=cuda", "train.precision=bf16"});
  const Throughput result = measure_training(config, 1, 2);
  EXPECT_EQ(result.step_seconds.size(), 2U);
  EXPECT_GT(result.peak_bytes, 0);
  EXPECT_FALSE(result.device.empty());
  EXPECT_GT(result.phases.forward_backward, 0);
}

}  // namespace
}  // namespace photon
