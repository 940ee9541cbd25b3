#include "kernels/linear.hpp"

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::expect_close;
using testing::Field;
using testing::float32_tolerance;

class Linear : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, Linear, testing::all_isas(), testing::isa_name);

struct Size {
  std::int64_t n, o, k;
};
// One, primes, one past a tile of rows (4, 2), of outputs (4, 8), of lanes (16), of a block of k (512) and of a panel
// (128); row strides that collide in the cache (1024), which are packed; more rows than BLAS takes over at (192).
constexpr Size sizes[] = {{1, 1, 1},     {1, 7, 17},     {2, 16, 16},  {3, 5, 31}, {4, 17, 33},   {5, 8, 513},
                          {7, 13, 1025}, {8, 129, 64},   {9, 130, 65}, {13, 4, 1}, {33, 129, 47}, {64, 32, 128},
                          {241, 9, 19},  {200, 257, 40}, {31, 3, 600}, {6, 4, 1},  {30, 33, 1024}};

Context context(Numerics numerics) {
  Context ctx;
  ctx.numerics = numerics;
  return ctx;
}

TEST_P(Linear, MatchesTheReference) {
  for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
    for (const Size s : sizes) {
      const std::string what = fmt::format("{} x {} x {}", s.n, s.o, s.k);
      const Field x = Field::random({s.n, s.k}, "x", 3);
      const Field w = Field::random({s.o, s.k}, "w");
      Field y = Field::poison({s.n, s.o}, 5);
      linear_forward(context(numerics), x.view(), w.view(), y.view());
      const Doubles expected = testing::reference::linear(x.values(), w.values(), s.n, s.o, s.k);
      expect_close(y.values(), expected, float32_tolerance(s.k), what);
      EXPECT_TRUE(y.gaps_intact()) << what;

      Field more = Field::random({s.n, s.o}, "before", 5);
      Doubles sum = more.values();
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += expected[i];
      linear_forward(context(numerics), x.view(), w.view(), more.view(), more.view());
      expect_close(more.values(), sum, float32_tolerance(s.k), what + " accumulated");
      const Field added = Field::random({s.n, s.o}, "before", 2);
      linear_forward(context(numerics), x.view(), w.view(), y.view(), added.view());
      EXPECT_EQ(y.floats(), more.floats()) << what;
      EXPECT_TRUE(y.gaps_intact()) << what;
    }
  }
}

Doubles transpose(const Doubles& x, std::int64_t rows, std::int64_t columns) {
  Doubles t(x.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      t[static_cast<std::size_t>(c * rows + r)] = x[static_cast<std::size_t>(r * columns + c)];
    }
  }
  return t;
}

TEST_P(Linear, GradientsMatchTheReference) {
  for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
    for (const Size s : sizes) {
      const std::string what = fmt::format("{} x {} x {}", s.n, s.o, s.k);
      const Field x = Field::random({s.n, s.k}, "x", 3);
      const Field w = Field::random({s.o, s.k}, "w");
      const Field dy = Field::random({s.n, s.o}, "dy", 2);
      Field dx = Field::poison({s.n, s.k}, 1);
      linear_backward_input(context(numerics), dy.view(), w.view(), dx.view());
      const Doubles w_t = transpose(w.values(), s.o, s.k);
      const Doubles expected_dx = testing::reference::linear(dy.values(), w_t, s.n, s.k, s.o);
      expect_close(dx.values(), expected_dx, float32_tolerance(s.o), what + " dx");
      EXPECT_TRUE(dx.gaps_intact()) << what;
      linear_backward_input(context(numerics), dy.view(), w.view(), dx.view(), Write::accumulate);
      Doubles twice = expected_dx;
      for (double& v : twice) v *= 2;
      expect_close(dx.values(), twice, float32_tolerance(s.o), what + " dx accumulated");

      const Doubles dy_t = transpose(dy.values(), s.n, s.o);
      const Doubles x_t = transpose(x.values(), s.n, s.k);
      const Doubles expected_dw = testing::reference::linear(dy_t, x_t, s.o, s.k, s.n);
      Field dw = Field::poison({s.o, s.k});
      linear_backward_weight(context(numerics), dy.view(), x.view(), dw.view(), Write::replace);
      expect_close(dw.values(), expected_dw, float32_tolerance(s.n), what + " dw");
      linear_backward_weight(context(numerics), dy.view(), x.view(), dw.view());
      twice = expected_dw;
      for (double& v : twice) v *= 2;
      expect_close(dw.values(), twice, float32_tolerance(s.n), what + " dw accumulated");
    }
  }
}

TEST_P(Linear, ARowsBitsDependOnNothingElse) {
  constexpr std::int64_t n = 150;
  for (const auto& [o, k] : {std::pair<std::int64_t, std::int64_t>{37, 1029}, {16, 512}, {5, 7}, {129, 1024}}) {
    const Field x = Field::random({n, k}, "x");
    const Field w = Field::random({o, k}, "w");
    Field all = Field::poison({n, o});
    const Context ctx = context(Numerics::deterministic);
    linear_forward(ctx, x.view(), w.view(), all.view());
    for (const int threads : {1, 2}) {
      const testing::Threads scope(threads);
      for (const std::int64_t count : {1, 2, 3, 4, 5, 9, 32, 150}) {
        for (const std::int64_t first : {std::int64_t{0}, n - count, std::min<std::int64_t>(n - count, 13)}) {
          Field part = Field::poison({count, o}, 3);
          linear_forward(ctx, x.view().slice(0, first, count), w.view(), part.view());
          const Field& whole = all;
          const std::vector<float> expected = whole.floats();
          const std::vector<float> found = part.floats();
          ASSERT_TRUE(std::equal(found.begin(), found.end(), expected.begin() + first * o))
              << count << " rows from " << first << " with " << threads << " threads, " << o << " x " << k;
        }
      }
    }
  }
}

TEST_P(Linear, DeterministicGradientsDoNotDependOnThreads) {
  const Field x = Field::random({100, 70}, "x");
  const Field w = Field::random({90, 70}, "w");
  const Field dy = Field::random({100, 90}, "dy");
  const Context ctx = context(Numerics::deterministic);
  std::vector<std::vector<float>> dx;
  std::vector<std::vector<float>> dw;
  for (const int threads : {1, 2, 3}) {
    const testing::Threads scope(threads);
    Field a = Field::poison({100, 70});
    Field b = Field::poison({90, 70});
    linear_backward_input(ctx, dy.view(), w.view(), a.view());
    linear_backward_weight(ctx, dy.view(), x.view(), b.view(), Write::replace);
    dx.push_back(a.floats());
    dw.push_back(b.floats());
  }
  EXPECT_EQ(dx[0], dx[1]);
  EXPECT_EQ(dx[0], dx[2]);
  EXPECT_EQ(dw[0], dw[1]);
  EXPECT_EQ(dw[0], dw[2]);
}

TEST_P(Linear, AcceptsEmptySizes) {
  for (const Numerics numerics : {Numerics::deterministic, Numerics::tuned}) {
    const Context ctx = context(numerics);
    const Field w = Field::random({3, 2}, "w");
    const Field none = Field::poison({0, 2});
    Field y = Field::poison({0, 3});
    linear_forward(ctx, none.view(), w.view(), y.view());
    Field dw = Field::filled({3, 2}, 1);
    linear_backward_weight(ctx, y.view(), none.view(), dw.view());
    EXPECT_EQ(dw.values(), Doubles(6, 1.0));
    linear_backward_weight(ctx, y.view(), none.view(), dw.view(), Write::replace);
    EXPECT_EQ(dw.values(), Doubles(6, 0.0));
    // A sum of no terms.
    Field zero = Field::poison({2, 3});
    linear_forward(ctx, Field::poison({2, 0}).view(), Field::poison({3, 0}).view(), zero.view());
    EXPECT_EQ(zero.values(), Doubles(6, 0.0));
  }
}

TEST(LinearChecks, RefusesWrongShapes) {
  const Field x = Field::random({2, 3}, "x");
  const Field w = Field::random({4, 5}, "w");
  Field y = Field::poison({2, 4});
  EXPECT_THROW(linear_forward(Context{}, x.view(), w.view(), y.view()), ContractError);
  Context device;
  device.space = Space::device;
  EXPECT_THROW(linear_forward(device, x.view(), w.view(), y.view()), ContractError);
}

}  // namespace
TEST(LinearChecks, RefusesBfloat16OnTheHost) {
  const Tensor x(Space::host, DType::bf16, {2, 4});
  const Tensor w(Space::host, DType::bf16, {3, 4});
  const Tensor y(Space::host, DType::f32, {2, 3});
  try {
    linear_forward(Context{}, x, w, y);
    FAIL() << "bf16 was accepted";
  } catch (const ContractError& error) {
    EXPECT_NE(std::string(error.what()).find("x is bf16, which ops on the host do not compute in"), std::string::npos)
        << error.what();
  }
}

}  // namespace photon
