#include "kernels/swiglu.hpp"

#include <cmath>
#include <limits>

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::expect_close;
using testing::Field;

class Swiglu : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, Swiglu, testing::all_isas(), testing::isa_name);

TEST_P(Swiglu, MatchesTheReferenceWithGradients) {
  for (const auto& [n, f] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 17}, {70, 67}, {5, 64}}) {
    const std::string what = fmt::format("{} x {}", n, f);
    const Field gate_up = Field::random({n, 2 * f}, "gate_up", 3, 3.0);
    Field out = Field::poison({n, f}, 1);
    swiglu_forward(Context{}, gate_up.view(), out.view());
    expect_close(out.values(), testing::reference::swiglu(gate_up.values(), n, f), testing::float32_tolerance(4), what);
    EXPECT_TRUE(out.gaps_intact());

    const Field dout = Field::random({n, f}, "dout", 2);
    Field d = Field::poison({n, 2 * f}, 1);
    swiglu_backward(Context{}, dout.view(), gate_up.view(), d.view());
    EXPECT_TRUE(d.gaps_intact());
    const Doubles g = dout.values();
    testing::expect_gradient(
        [&, n = n, f = f](const Doubles& x) { return testing::dot(testing::reference::swiglu(x, n, f), g); },
        gate_up.values(), d.values(), 1e-5, what);
    Field in_place = Field::random({n, 2 * f}, "gate_up", 3, 3.0);
    swiglu_backward(Context{}, dout.view(), in_place.view(), in_place.view());
    EXPECT_EQ(in_place.floats(), d.floats());
  }
  Field none = Field::poison({0, 4});
  Field none_out = Field::poison({0, 2});
  swiglu_forward(Context{}, none.view(), none_out.view());
  swiglu_backward(Context{}, none_out.view(), none.view(), none.view());
}

TEST_P(Swiglu, ExponentialIsAccurateEverywhere) {
  std::vector<float> x;
  for (float v = -87.3F; v < 88.72F; v += 0.00731F) x.push_back(v);
  std::vector<float> y(x.size());
  const auto n = static_cast<std::int64_t>(x.size());
  cpu::loops().write_exp(x.data(), 0, 1, 1, n, y.data());
  double worst = 0;
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    const double error = std::abs(static_cast<double>(y[i]) / exact - 1);
    EXPECT_FALSE(std::isnan(error));
    worst = std::max(worst, error);
    sum += std::exp(static_cast<double>(x[i]) - 60);  // what sum_exp is for: the largest is subtracted first
  }
  EXPECT_LE(worst, 2 * 0x1p-23);
  EXPECT_NEAR(cpu::loops().sum_exp(x.data(), 60, 1, n) / sum, 1, 1e-6);

  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float edges[] = {0, -0.0F, -infinity, infinity, 1000, -1000, -88, 89, std::nanf("")};
  float results[9];
  cpu::loops().write_exp(edges, 0, 1, 1, 9, results);
  EXPECT_EQ(results[0], 1);
  EXPECT_EQ(results[1], 1);
  EXPECT_EQ(results[2], 0);
  EXPECT_EQ(results[3], infinity);
  EXPECT_EQ(results[4], infinity);
  EXPECT_EQ(results[5], 0);
  EXPECT_EQ(results[6], 0);
  EXPECT_EQ(results[7], infinity);
  EXPECT_TRUE(std::isnan(results[8]));
}

TEST_P(Swiglu, BackwardGivesTheActivationAgain) {
  for (const std::int64_t width : {1, 17, 256, 700}) {
    const Field gate_up = Field::random({3, 2 * width}, "gate_up", 2, 2.0);
    Field out = Field::poison({3, width}, 1);
    Field gradient = Field::poison({3, 2 * width}, 3);
    swiglu_forward(Context{}, gate_up.view(), out.view());
    const Field dout = Field::random({3, width}, "dout", 5);
    swiglu_backward(Context{}, dout.view(), gate_up.view(), gradient.view());
    Field in_place = Field::random({3, 2 * width}, "gate_up", 2, 2.0);
    Field slopes = Field::random({3, width}, "dout", 5);
    swiglu_backward(Context{}, slopes.view(), in_place.view(), in_place.view(), slopes.view());
    EXPECT_EQ(slopes.floats(), out.floats());
    EXPECT_EQ(in_place.floats(), gradient.floats());
    EXPECT_TRUE(slopes.gaps_intact() && in_place.gaps_intact());
  }
}

TEST_P(Swiglu, SaturatesWithoutNaN) {
  std::vector<float> gate_up = {200, -200, 1e30F, -1e30F, 2, 3, 1, 1};
  std::vector<float> out(4);
  swiglu_forward(Context{}, host_view(gate_up.data(), {1, 8}), host_view(out.data(), {1, 4}));
  EXPECT_EQ(out, (std::vector<float>{400, 0, 1e30F, 0}));
}

}  // namespace
}  // namespace photon
