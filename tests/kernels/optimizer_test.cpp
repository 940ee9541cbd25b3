#include "kernels/optimizer.hpp"

#include <cmath>
#include <limits>

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::Field;

class Optimizer : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, Optimizer, testing::all_isas(), testing::isa_name);

TEST_P(Optimizer, FollowsAdamWInDouble) {
  for (const std::int64_t n : {1, 15, 33, 16385}) {
    Field p = Field::random({n}, "p");
    Field m = Field::filled({n}, 0);
    Field v = Field::filled({n}, 0);
    Doubles ps = p.values();
    Doubles ms(ps.size(), 0.0);
    Doubles vs(ps.size(), 0.0);
    for (std::int64_t step = 1; step <= 20; ++step) {
      const Field g = Field::random({n}, fmt::format("g{}", step));
      const AdamWStep s{.learning_rate = 1e-2,
                        .beta1 = 0.9,
                        .beta2 = 0.95,
                        .eps = 1e-8,
                        .weight_decay = 0.1,
                        .gradient_scale = 0.5,
                        .step = step};
      adamw(Context{}, s, p.view(), g.view(), m.view(), v.view());
      const Doubles gs = g.values();
      for (std::size_t i = 0; i < ps.size(); ++i) {
        const double grad = 0.5 * gs[i];
        ms[i] = 0.9 * ms[i] + 0.1 * grad;
        vs[i] = 0.95 * vs[i] + 0.05 * grad * grad;
        const auto t = static_cast<double>(step);
        const double m_hat = ms[i] / (1 - std::pow(0.9, t));
        const double v_hat = vs[i] / (1 - std::pow(0.95, t));
        ps[i] -= 1e-2 * 0.1 * ps[i];
        ps[i] -= 1e-2 * m_hat / (std::sqrt(v_hat) + 1e-8);
      }
    }
    testing::expect_close(p.values(), ps, 1e-6, fmt::format("p of {}", n));
    testing::expect_close(m.values(), ms, 5e-6, "m");
    testing::expect_close(v.values(), vs, 5e-6, "v");
  }
}

TEST_P(Optimizer, SumOfSquaresIsExactEnoughAndRepeatable) {
  for (const std::int64_t n : {0, 1, 17, 16384, 16385, 100003}) {
    const Field x = Field::random({n}, "x", 0, 3.0);
    const Doubles xs = x.values();
    double found = 0;
    for (const int threads : {1, 2, 3}) {
      const testing::Threads scope(threads);
      const double sum = sum_of_squares(Context{}, x.view());
      EXPECT_NEAR(sum, testing::dot(xs, xs), 1e-12 * (1 + testing::dot(xs, xs)));
      if (threads > 1) {
        EXPECT_EQ(sum, found);
      }
      found = sum;
    }
  }
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Field x = Field::filled({20001}, 1);
    x.view().host<float>()[19999] = bad;
    EXPECT_FALSE(std::isfinite(sum_of_squares(Context{}, x.view())));
  }
  // Added to what is there.
  double total = 0.5;
  const Field three = Field::filled({3}, 2);
  add_sum_of_squares(Context{}, three.view(), host_view(&total, {1}));
  EXPECT_EQ(total, 12.5);
  // Squares beyond the range of float.
  EXPECT_NEAR(sum_of_squares(Context{}, Field::filled({2}, 1e30F).view()) / 2e60, 1, 1e-6);
}

TEST_P(Optimizer, ChecksItsArguments) {
  Field p = Field::filled({3}, 1);
  Field q = Field::filled({4}, 1);
  AdamWStep s{};
  s.step = 1;
  EXPECT_THROW(adamw(Context{}, s, p.view(), q.view(), p.view(), p.view()), ContractError);
  s.step = 0;
  EXPECT_THROW(adamw(Context{}, s, p.view(), p.view(), p.view(), p.view()), ContractError);
}

}  // namespace
}  // namespace photon
