#include "train/spike_guard.hpp"

#include <gtest/gtest.h>

namespace photon {
namespace {

TEST(SpikeGuard, LooksAtTheFirstStepsOnly) {
  SpikeGuard guard(4, 0, 0);
  double sum = 0;
  for (std::int64_t i = 1; i <= SpikeGuard::num_first; ++i) {
    const double norm = i == 3 ? 100 : static_cast<double>(i);
    sum += norm;
    EXPECT_FALSE(guard.skips(norm));
    EXPECT_NEAR(guard.mean(), sum / static_cast<double>(i), 1e-12 * sum);
  }
  EXPECT_EQ(guard.count(), SpikeGuard::num_first);
}

TEST(SpikeGuard, LeavesOutWhatIsFarAboveTheMean) {
  SpikeGuard guard(4, 1.0, 100);
  EXPECT_FALSE(guard.skips(4.0));
  const double mean = 1.0 + SpikeGuard::share * 3.0;
  EXPECT_DOUBLE_EQ(guard.mean(), mean);
  EXPECT_TRUE(guard.skips(4.0 * mean * 1.001));
  // It counts as the limit.
  EXPECT_DOUBLE_EQ(guard.mean(), mean + SpikeGuard::share * 3.0 * mean);
}

TEST(SpikeGuard, BelievesNormsThatStayHigh) {
  SpikeGuard guard(4, 1.0, 100);
  int skipped = 0;
  while (guard.skips(100.0)) ++skipped;
  // The mean grows by 1 + 3 share at each; 25 = (1.06)^n.
  EXPECT_EQ(skipped, 56);
}

TEST(SpikeGuard, IsOffByDefault) {
  SpikeGuard guard;
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(guard.skips(i < 40 ? 1.0 : 1e30));
}

}  // namespace
}  // namespace photon
