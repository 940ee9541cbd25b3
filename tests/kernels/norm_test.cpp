#include "kernels/norm.hpp"

#include <cmath>

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::expect_close;
using testing::Field;

constexpr double eps = 1e-5;

class Norm : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, Norm, testing::all_isas(), testing::isa_name);

struct Size {
  std::int64_t n, d;
};
constexpr Size sizes[] = {{1, 1}, {1, 17}, {3, 16}, {7, 31}, {65, 33}, {131, 64}, {300, 5}};

TEST_P(Norm, MatchesTheReference) {
  for (const auto& [n, d] : sizes) {
    const std::string what = fmt::format("{} x {}", n, d);
    const Field x = Field::random({n, d}, "x", 3);
    const Field w = Field::random({d}, "w");
    Field y = Field::poison({n, d}, 2);
    Field rstd = Field::poison({n});
    rms_norm_forward(Context{}, x.view(), w.view(), eps, y.view(), rstd.view());
    const Doubles expected = testing::reference::rms_norm(x.values(), w.values(), eps, n, d);
    expect_close(y.values(), expected, testing::float32_tolerance(d), what);
    EXPECT_TRUE(y.gaps_intact());
    const Doubles xs = x.values();
    for (std::int64_t i = 0; i < n; ++i) {
      const Doubles row(xs.begin() + i * d, xs.begin() + (i + 1) * d);
      const double expected_rstd = 1 / std::sqrt(testing::dot(row, row) / static_cast<double>(d) + eps);
      EXPECT_NEAR(rstd.values()[static_cast<std::size_t>(i)] / expected_rstd, 1, 1e-6);
    }
    Field again = Field::poison({n, d});
    rms_norm_forward(Context{}, x.view(), w.view(), eps, again.view(), {});
    EXPECT_EQ(again.floats(), y.floats());
  }
}

TEST_P(Norm, GradientsMatchFiniteDifferences) {
  for (const auto& [n, d] : sizes) {
    const std::string what = fmt::format("{} x {}", n, d);
    const Field x = Field::random({n, d}, "x", 3);
    const Field w = Field::random({d}, "w");
    const Field dy = Field::random({n, d}, "dy", 1);
    Field y = Field::poison({n, d});
    Field rstd = Field::poison({n});
    rms_norm_forward(Context{}, x.view(), w.view(), eps, y.view(), rstd.view());
    Field dx = Field::poison({n, d}, 2);
    Field dw = Field::filled({d}, 1);
    rms_norm_backward(Context{}, dy.view(), x.view(), w.view(), rstd.view(), {}, dx.view(), dw.view());
    EXPECT_TRUE(dx.gaps_intact());
    const Doubles xs = x.values();
    const Doubles ws = w.values();
    const Doubles g = dy.values();
    const auto loss = [&, n = n, d = d](const Doubles& a, const Doubles& b) {
      return testing::dot(testing::reference::rms_norm(a, b, eps, n, d), g);
    };
    if (d > 1) {  // a row of one is its own norm
      testing::expect_gradient([&](const Doubles& a) { return loss(a, ws); }, xs, dx.values(), 1e-5, what + " dx");
    }
    Doubles dws = dw.values();
    for (double& v : dws) v -= 1;  // what was there before
    testing::expect_gradient([&](const Doubles& b) { return loss(xs, b); }, ws, dws, 1e-5, what + " dw");

    Field more = Field::filled({n, d}, 2);
    Field dw2 = Field::filled({d}, 1);
    rms_norm_backward(Context{}, dy.view(), x.view(), w.view(), rstd.view(), more.view(), more.view(), dw2.view());
    Doubles expected = dx.values();
    for (double& v : expected) v += 2;
    expect_close(more.values(), expected, 1e-6, what + " accumulated");
    EXPECT_EQ(dw2.floats(), dw.floats());
    const Field before = Field::filled({n, d}, 2);
    Field beside = Field::poison({n, d}, 3);
    Field again = Field::poison({n, d}, 1);
    rms_norm_backward(Context{}, dy.view(), x.view(), w.view(), rstd.view(), before.view(), beside.view(), dw2.view(),
                      again.view());
    EXPECT_EQ(beside.floats(), more.floats()) << what;
    EXPECT_EQ(again.floats(), y.floats()) << what;
    EXPECT_TRUE(beside.gaps_intact() && again.gaps_intact());
    Field in_place = Field::random({n, d}, "dy", 1);
    rms_norm_backward(Context{}, in_place.view(), x.view(), w.view(), rstd.view(), {}, in_place.view(), dw2.view());
    EXPECT_EQ(in_place.floats(), dx.floats()) << what;
  }
}

TEST_P(Norm, BitsDoNotDependOnThreads) {
  const Field x = Field::random({1000, 40}, "x");
  const Field w = Field::random({40}, "w");
  const Field dy = Field::random({1000, 40}, "dy");
  std::vector<std::vector<float>> gradients;
  for (const int threads : {1, 2, 3}) {
    const testing::Threads scope(threads);
    Field y = Field::poison({1000, 40});
    Field rstd = Field::poison({1000});
    rms_norm_forward(Context{}, x.view(), w.view(), eps, y.view(), rstd.view());
    Field dx = Field::poison({1000, 40});
    Field dw = Field::filled({40}, 0);
    rms_norm_backward(Context{}, dy.view(), x.view(), w.view(), rstd.view(), {}, dx.view(), dw.view());
    gradients.push_back(dw.floats());
    Field alone = Field::poison({1, 40});
    rms_norm_forward(Context{}, x.view().slice(0, 777, 1), w.view(), eps, alone.view(), {});
    const std::vector<float> all = y.floats();
    EXPECT_EQ(alone.floats(), std::vector<float>(all.begin() + 777 * 40, all.begin() + 778 * 40));
  }
  EXPECT_EQ(gradients[0], gradients[1]);
  EXPECT_EQ(gradients[0], gradients[2]);
}

TEST_P(Norm, AcceptsNoRowsAndZeros) {
  Field none = Field::poison({0, 3});
  const Field w = Field::filled({3}, 1);
  Field rstd = Field::poison({0});
  Field dw = Field::filled({3}, 4);
  rms_norm_forward(Context{}, none.view(), w.view(), eps, none.view(), rstd.view());
  rms_norm_backward(Context{}, none.view(), none.view(), w.view(), rstd.view(), {}, none.view(), dw.view());
  EXPECT_EQ(dw.values(), Doubles(3, 4.0));
  const Field zeros = Field::filled({1, 3}, 0);
  Field y = Field::poison({1, 3});
  rms_norm_forward(Context{}, zeros.view(), w.view(), eps, y.view(), {});
  EXPECT_EQ(y.values(), Doubles(3, 0.0));
  EXPECT_THROW(rms_norm_forward(Context{}, zeros.view(), Field::filled({4}, 1).view(), eps, y.view(), {}),
               ContractError);
}

}  // namespace
}  // namespace photon
