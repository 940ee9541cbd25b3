// The sizes by which the presets are known.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "blueprint/flops.hpp"
#include "blueprint/parameters.hpp"
#include "config/model_config.hpp"

namespace photon {
namespace {

struct Size {
  std::string preset;
  double parameters;   // millions, to one decimal
  double forward = 0;  // GFLOP a token at 2048 tokens, to three decimals; 0: not stated
};

const std::vector<Size> sizes = {
    {"photon-60m", 72.3, 0.080},   {"photon-125m", 143.5, 0.159},  {"photon-600m", 589.1, 0.678},
    {"photon-900m", 868.0, 0.938}, {"photon-1.2b", 1225.9, 1.440}, {"photon-7b", 7006.9, 8.451},
    {"vanilla-600m", 608.0},       {"vanilla-900m", 933.6},        {"vanilla-1.2b", 1261.5}};

TEST(Presets, HaveTheirNumbersOfParameters) {
  ASSERT_EQ(sizes.size(), preset_names().size());
  for (const Size& size : sizes) {
    const double millions = static_cast<double>(num_parameters(preset(size.preset))) / 1e6;
    EXPECT_NEAR(millions, size.parameters, 0.05) << size.preset;
  }
}

TEST(Presets, HaveTheirFlopsAToken) {
  for (const Size& size : sizes) {
    if (size.forward == 0) continue;
    const double giga = forward_flops(preset(size.preset), 2048).total() / 2048 / 1e9;
    EXPECT_NEAR(giga, size.forward, 0.0005) << size.preset;
  }
}

}  // namespace
}  // namespace photon
