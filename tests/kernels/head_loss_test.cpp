#include "kernels/head_loss.hpp"

#include <cmath>
#include <numeric>

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::Field;

class HeadLoss : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, HeadLoss, testing::all_isas(), testing::isa_name);

struct Case {
  std::int64_t n, d, v;
  bool masked;
};
// Rows on either side of a block (128); more logits than one block of the exponential sum.
constexpr Case cases[] = {
    {1, 1, 1, false}, {3, 7, 5, true}, {129, 16, 33, true}, {128, 5, 17, false}, {7, 8, 1100, true}};

std::vector<std::uint8_t> mask_of(const Case& c) {
  std::vector<std::uint8_t> mask;
  for (std::int64_t i = 0; c.masked && i < c.n; ++i) mask.push_back(i % 3 != 1 ? 1 : 0);
  return mask;
}
ConstTensorView view_of(const std::vector<std::uint8_t>& mask) {
  return mask.empty() ? ConstTensorView() : host_view(mask.data(), {static_cast<std::int64_t>(mask.size())});
}

TEST_P(HeadLoss, MatchesTheReferenceWithGradients) {
  for (const Case& c : cases) {
    for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
      Context ctx;
      ctx.numerics = numerics;
      const std::string what = fmt::format("{} x {} x {}", c.n, c.d, c.v);
      const Field y = Field::random({c.n, c.d}, "y", 2);
      const Field w = Field::random({c.v, c.d}, "w");
      const std::vector<std::int32_t> targets = testing::random_tokens(c.n, c.v, "targets");
      const std::vector<std::uint8_t> mask = mask_of(c);
      const Doubles expected = testing::reference::head_loss(y.values(), w.values(), targets, mask, c.n, c.d, c.v);
      const double expected_sum = std::accumulate(expected.begin(), expected.end(), 0.0);

      Field token_loss = Field::poison({c.n});
      std::vector<std::int32_t> argmax(static_cast<std::size_t>(c.n), -1);
      const ConstTensorView target_view = host_view(targets.data(), {c.n});
      const double sum = head_loss_forward(ctx, y.view(), w.view(), target_view, view_of(mask), token_loss.view(),
                                           host_view(argmax.data(), {c.n}));
      EXPECT_NEAR(sum, expected_sum, 1e-5 * (1 + std::abs(expected_sum))) << what;
      testing::expect_close(token_loss.values(), expected, c.v == 1 ? 1 : 2e-6, what);
      const double again = head_loss_forward(ctx, y.view(), w.view(), target_view, view_of(mask), {}, {});
      EXPECT_EQ(again, sum) << what;
      const Doubles logits = testing::reference::linear(y.values(), w.values(), c.n, c.v, c.d);
      for (std::int64_t i = 0; i < c.n; ++i) {
        if (!mask.empty() && mask[static_cast<std::size_t>(i)] == 0) continue;
        const auto row = logits.begin() + i * c.v;
        EXPECT_EQ(argmax[static_cast<std::size_t>(i)], std::max_element(row, row + c.v) - row) << what;
      }

      const double factor = 0.37;
      Field dy = Field::poison({c.n, c.d}, 1);
      Field dw = Field::filled({c.v, c.d}, 1);
      const double third =
          head_loss_backward(ctx, y.view(), w.view(), target_view, view_of(mask), factor, dy.view(), dw.view());
      EXPECT_NEAR(third, sum, 1e-5 * (1 + std::abs(sum))) << what;
      EXPECT_TRUE(dy.gaps_intact()) << what;
      double total = 0;
      Field dy_again = Field::poison({c.n, c.d}, 1);
      Field dw_again = Field::filled({c.v, c.d}, 1);
      add_head_loss_backward(ctx, y.view(), w.view(), target_view, view_of(mask), factor, dy_again.view(),
                             dw_again.view(), host_view(&total, {1}));
      EXPECT_EQ(total, third) << what;
      EXPECT_EQ(dy_again.floats(), dy.floats()) << what;
      EXPECT_EQ(dw_again.floats(), dw.floats()) << what;
      total = 0;
      add_head_loss_forward(ctx, y.view(), w.view(), target_view, view_of(mask), host_view(&total, {1}));
      EXPECT_EQ(total, sum) << what;
      const auto loss = [&](const Doubles& a, const Doubles& b) {
        const Doubles each = testing::reference::head_loss(a, b, targets, mask, c.n, c.d, c.v);
        return factor * std::accumulate(each.begin(), each.end(), 0.0);
      };
      Doubles dws = dw.values();
      for (double& v : dws) v -= 1;
      if (c.v == 1) {  // one logit: the loss is 0 whatever it is
        EXPECT_NEAR(dy.values()[0], 0, 1e-6);
        EXPECT_NEAR(dws[0], 0, 1e-6);
        continue;
      }
      testing::expect_gradient([&](const Doubles& a) { return loss(a, w.values()); }, y.values(), dy.values(), 2e-5,
                               what + " dy");
      testing::expect_gradient([&](const Doubles& b) { return loss(y.values(), b); }, w.values(), dws, 5e-5,
                               what + " dw");
    }
  }
}

TEST_P(HeadLoss, ARowsLossDependsOnNothingElse) {
  Context ctx;
  ctx.numerics = Numerics::deterministic;
  const Field y = Field::random({140, 24}, "y");
  const Field w = Field::random({97, 24}, "w");
  const std::vector<std::int32_t> targets = testing::random_tokens(140, 97, "targets");
  Field all = Field::poison({140});
  const double sum = head_loss_forward(ctx, y.view(), w.view(), host_view(targets.data(), {140}), {}, all.view(), {});
  const std::vector<float> losses = all.floats();
  const testing::Threads scope(1);
  Field again = Field::poison({140});
  EXPECT_EQ(head_loss_forward(ctx, y.view(), w.view(), host_view(targets.data(), {140}), {}, again.view(), {}), sum);
  EXPECT_EQ(again.floats(), losses);
  for (const std::int64_t row : {0, 5, 139}) {
    Field one = Field::poison({1});
    head_loss_forward(ctx, y.view().slice(0, row, 1), w.view(), host_view(targets.data() + row, {1}), {}, one.view(),
                      {});
    EXPECT_EQ(one.floats()[0], losses[static_cast<std::size_t>(row)]);
  }
}

TEST_P(HeadLoss, EdgesOfMaskAndVocabulary) {
  const Field y = Field::filled({2, 3}, 1);
  const Field w = Field::filled({4, 3}, 1);  // all logits equal: the lowest index wins
  std::vector<std::int32_t> targets = {3, 77};
  std::vector<std::uint8_t> mask = {1, 0};  // the second row's target is no token, and does not matter
  std::vector<std::int32_t> argmax = {9, 9};
  Field dy = Field::poison({2, 3});
  Field dw = Field::filled({4, 3}, 0);
  EXPECT_NEAR(head_loss_forward(Context{}, y.view(), w.view(), host_view(targets.data(), {2}),
                                host_view(mask.data(), {2}), {}, host_view(argmax.data(), {2})),
              std::log(4.0), 1e-6);
  EXPECT_EQ(argmax[0], 0);
  head_loss_backward(Context{}, y.view(), w.view(), host_view(targets.data(), {2}), host_view(mask.data(), {2}), 1.0,
                     dy.view(), dw.view());
  for (std::size_t i = 3; i < 6; ++i) EXPECT_EQ(dy.values()[i], 0);
  mask[1] = 1;
  EXPECT_THROW(head_loss_forward(Context{}, y.view(), w.view(), host_view(targets.data(), {2}),
                                 host_view(mask.data(), {2}), {}, {}),
               ContractError);
  mask = {0, 0};
  EXPECT_EQ(head_loss_backward(Context{}, y.view(), w.view(), host_view(targets.data(), {2}),
                               host_view(mask.data(), {2}), 1.0, dy.view(), dw.view()),
            0);
  EXPECT_EQ(dy.values(), Doubles(6, 0.0));
  Field none = Field::poison({0, 3});
  const ConstTensorView empty = host_view(static_cast<const std::int32_t*>(nullptr), {0});
  EXPECT_EQ(head_loss_forward(Context{}, none.view(), w.view(), empty, {}, {}, {}), 0);
}

TEST_P(HeadLoss, LargeLogitsStayFinite) {
  const Field y = Field::filled({1, 1}, 1);
  std::vector<float> w = {5000, -5000, 4990};
  const std::int32_t target = 2;
  EXPECT_NEAR(head_loss_forward(Context{}, y.view(), host_view(w.data(), {3, 1}), host_view(&target, {1}), {}, {}, {}),
              10 + std::log1p(std::exp(-10.0)), 1e-3);
}

}  // namespace
}  // namespace photon
