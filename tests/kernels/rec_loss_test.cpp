#include "kernels/rec_loss.hpp"

#include <cmath>

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::Field;

class RecLoss : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, RecLoss, testing::all_isas(), testing::isa_name);

double reference(RecDistance distance, const Doubles& y, const Doubles& x, const std::vector<std::uint8_t>& mask,
                 std::size_t units, std::size_t width) {
  double sum = 0;
  for (std::size_t u = 0; u < units; ++u) {
    if (!mask.empty() && mask[u] == 0) continue;
    const Doubles a(y.begin() + static_cast<std::ptrdiff_t>(u * width),
                    y.begin() + static_cast<std::ptrdiff_t>((u + 1) * width));
    const Doubles b(x.begin() + static_cast<std::ptrdiff_t>(u * width),
                    x.begin() + static_cast<std::ptrdiff_t>((u + 1) * width));
    if (distance == RecDistance::cosine) {
      sum += 1 - testing::dot(a, b) / std::max(std::sqrt(testing::dot(a, a) * testing::dot(b, b)), 1e-12);
      continue;
    }
    double part = 0;
    for (std::size_t i = 0; i < width; ++i) {
      const double e = std::abs(a[i] - b[i]);
      part += distance == RecDistance::mse ? e * e : (e < 1 ? e * e / 2 : e - 0.5);
    }
    sum += part / static_cast<double>(width);
  }
  return sum;
}

TEST_P(RecLoss, MatchesTheReferenceWithGradients) {
  for (const RecDistance distance : {RecDistance::cosine, RecDistance::smooth_l1, RecDistance::mse}) {
    for (const auto& [units, width] : {std::pair<std::int64_t, std::int64_t>{1, 2}, {7, 17}, {301, 40}}) {
      const std::string what = fmt::format("distance {} of {} x {}", static_cast<int>(distance), units, width);
      const auto n = static_cast<std::size_t>(units);
      const auto d = static_cast<std::size_t>(width);
      const Field y = Field::random({units, width}, "y", 2);
      const Field x = Field::random({units, width}, "x", 1);
      std::vector<std::uint8_t> mask;
      for (std::size_t i = 0; units > 1 && i < n; ++i) mask.push_back(i % 4 != 2 ? 1 : 0);
      const ConstTensorView mask_view = mask.empty() ? ConstTensorView() : host_view(mask.data(), {units});
      const double expected = reference(distance, y.values(), x.values(), mask, n, d);
      double sum = 0;
      for (const int threads : {2, 1}) {
        const testing::Threads scope(threads);
        const double found = rec_loss_forward(Context{}, distance, y.view(), x.view(), mask_view);
        EXPECT_NEAR(found, expected, 1e-6 * (1 + expected)) << what;
        double total = 1;
        add_rec_loss_forward(Context{}, distance, y.view(), x.view(), mask_view, host_view(&total, {1}));
        EXPECT_EQ(total, 1 + found) << what;
        if (threads == 1) {
          EXPECT_EQ(found, sum) << what;
        }
        sum = found;
      }
      Field dy = Field::filled({units, width}, 1, 3);
      Field dx = Field::filled({units, width}, 1, 1);
      rec_loss_backward(Context{}, distance, y.view(), x.view(), mask_view, 0.3, dy.view(), dx.view());
      Field dy_alone = Field::filled({units, width}, 1, 3);
      rec_loss_backward(Context{}, distance, y.view(), x.view(), mask_view, 0.3, dy_alone.view(), {});
      EXPECT_EQ(dy_alone.floats(), dy.floats()) << what;
      EXPECT_TRUE(dy.gaps_intact() && dx.gaps_intact()) << what;
      Doubles dys = dy.values();
      Doubles dxs = dx.values();
      for (double& v : dys) v -= 1;
      for (double& v : dxs) v -= 1;
      const Doubles ys = y.values();
      const Doubles xs = x.values();
      testing::expect_gradient([&](const Doubles& a) { return 0.3 * reference(distance, a, xs, mask, n, d); }, ys, dys,
                               2e-4, what + " dy");
      testing::expect_gradient([&](const Doubles& b) { return 0.3 * reference(distance, ys, b, mask, n, d); }, xs, dxs,
                               2e-4, what + " dx");
    }
  }
}

TEST_P(RecLoss, ZeroVectorsAreOneApart) {
  const Field y = Field::filled({2, 3}, 0);
  const Field x = Field::random({2, 3}, "x");
  EXPECT_EQ(rec_loss_forward(Context{}, RecDistance::cosine, y.view(), x.view(), {}), 2.0);
  Field dy = Field::filled({2, 3}, 0);
  Field dx = Field::filled({2, 3}, 0);
  rec_loss_backward(Context{}, RecDistance::cosine, y.view(), x.view(), {}, 1.0, dy.view(), dx.view());
  EXPECT_EQ(dy.values(), Doubles(6, 0.0));
  EXPECT_EQ(dx.values(), Doubles(6, 0.0));
  Field none = Field::poison({0, 3});
  EXPECT_EQ(rec_loss_forward(Context{}, RecDistance::mse, none.view(), none.view(), {}), 0.0);
  rec_loss_backward(Context{}, RecDistance::mse, none.view(), none.view(), {}, 1.0, none.view(), {});
  Field broken = Field::poison({1, 3});
  EXPECT_TRUE(std::isnan(rec_loss_forward(Context{}, RecDistance::cosine, broken.view(), x.view().slice(0, 0, 1), {})));
}

}  // namespace
}  // namespace photon
