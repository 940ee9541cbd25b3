#include "train/spike_guard.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace photon {
namespace {

TEST(SpikeGuard, LooksAtTheFirstStepsOnly) {
  SpikeGuard guard(4, 0, 0);
  double product = 1;
  for (std::int64_t i = 1; i <= SpikeGuard::num_first; ++i) {
    const double norm = i == 3 ? 100 : 1 + 1.0 / static_cast<double>(i);
    product *= norm;
    EXPECT_FALSE(guard.skips(norm));
    EXPECT_NEAR(std::exp(guard.log_mean()), std::pow(product, 1.0 / static_cast<double>(i)), 1e-12);
  }
  EXPECT_EQ(guard.count(), SpikeGuard::num_first);
}

TEST(SpikeGuard, LeavesOutWhatIsFarAboveTheMean) {
  SpikeGuard guard(4, 0, 100);
  EXPECT_FALSE(guard.skips(3.999));
  const double mean = std::pow(3.999, SpikeGuard::share);
  EXPECT_NEAR(std::exp(guard.log_mean()), mean, 1e-12);
  EXPECT_TRUE(guard.skips(4.001 * mean));
}

// Fresh weights have gradients thousands of times as large as those of the steps behind them.
TEST(SpikeGuard, IsNotBlindedByTheFirstStep) {
  SpikeGuard guard(4, 0, 0);
  EXPECT_FALSE(guard.skips(3000.0));
  for (std::int64_t i = 1; i < SpikeGuard::num_first; ++i) EXPECT_FALSE(guard.skips(1.0));
  EXPECT_FALSE(guard.skips(1.5));
  EXPECT_TRUE(guard.skips(10.0));
}

TEST(SpikeGuard, BelievesNormsThatStayHigh) {
  SpikeGuard guard(4, 0, 100);
  int skipped = 0;
  while (guard.skips(100.0)) ++skipped;
  EXPECT_EQ(skipped, 60);  // 100 / 100^(1 - 0.98^n) <= 4
}

TEST(SpikeGuard, PassesOverStepsWithoutAGradient) {
  SpikeGuard guard(4, 0.5, 100);
  EXPECT_FALSE(guard.skips(0.0));
  EXPECT_EQ(guard.log_mean(), 0.5);
  EXPECT_EQ(guard.count(), 100);
}

TEST(SpikeGuard, IsOffByDefault) {
  SpikeGuard guard;
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(guard.skips(i < 40 ? 1.0 : 1e30));
}

}  // namespace
}  // namespace photon
