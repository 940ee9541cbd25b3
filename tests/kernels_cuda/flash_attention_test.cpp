// Stream attention on tensor cores: bf16, head widths 64 and 128, against double precision.
#include "../kernels/reference.hpp"
#include "kernels/attention.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

struct Case {
  std::int64_t batch, positions, heads, key_heads, width, window;
};
std::ostream& operator<<(std::ostream& to, const Case& c) {
  return to << c.batch << " x " << c.positions << ", heads " << c.heads << "/" << c.key_heads << " of " << c.width
            << ", window " << c.window;
}

// q, k and v are slices of one buffer [B, N, (Hq + 2 Hkv) * hd], as the model has them; so are their gradients.
struct Fused {
  Case c;
  Shape shape() const { return {c.batch, c.positions, (c.heads + 2 * c.key_heads) * c.width}; }
  Shape rows() const { return {c.batch, c.positions, c.heads, c.width}; }
  TensorView part(const TensorView& t, std::int64_t first, std::int64_t count) const {
    return t.slice(2, first * c.width, count * c.width).split(2, count);
  }
  TensorView q(const TensorView& t) const { return part(t, 0, c.heads); }
  TensorView k(const TensorView& t) const { return part(t, c.heads, c.key_heads); }
  TensorView v(const TensorView& t) const { return part(t, c.heads + c.key_heads, c.key_heads); }

  // One part of a whole fused array on the host.
  template <class T>
  Doubles part_of(const T* values, std::int64_t first, std::int64_t count) const {
    const std::int64_t all = (c.heads + 2 * c.key_heads) * c.width;
    Doubles out;
    for (std::int64_t row = 0; row < c.batch * c.positions; ++row) {
      for (std::int64_t i = 0; i < count * c.width; ++i) out.push_back(values[row * all + first * c.width + i]);
    }
    return out;
  }
};

// x [rows, heads, width], whose rows stand at their place in sequences, turned by the negative angle.
Doubles turned_back(Doubles x, const Case& c, std::int64_t heads, double theta) {
  const std::int64_t half = c.width / 2;
  for (std::int64_t row = 0; row < c.batch * c.positions; ++row) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(row % c.positions) *
                             std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
        double& low = x[static_cast<std::size_t>((row * heads + h) * c.width + i)];
        double& high = x[static_cast<std::size_t>((row * heads + h) * c.width + half + i)];
        const double before = low;
        low = before * std::cos(angle) + high * std::sin(angle);
        high = high * std::cos(angle) - before * std::sin(angle);
      }
    }
  }
  return x;
}

class FlashAttention : public OnDevice {
 protected:
  struct Results {
    std::vector<float> out, lse, grads;
  };
  // Forward and backward into poisoned outputs.
  Results run(const Fused& f, const TensorView& qkv, const TensorView& dout, const RopeTable* table = nullptr) {
    const Pair out = poisoned_pair(GetParam(), f.rows());
    const Pair lse = poisoned_pair(DType::f32, {f.c.batch, f.c.heads, f.c.positions});
    const Pair grads = poisoned_pair(GetParam(), f.shape());
    cuda::stream_attention_forward(ctx_, f.q(qkv), f.k(qkv), f.v(qkv), f.c.window, out.device, lse.device);
    cuda::stream_attention_backward(ctx_, f.q(qkv), f.k(qkv), f.v(qkv), out.device, lse.device, dout, f.c.window,
                                    f.q(grads.device), f.k(grads.device), f.v(grads.device), table);
    return {values_of(out.device), values_of(lse.device), values_of(grads.device)};
  }
};
INSTANTIATE_TEST_SUITE_P(, FlashAttention, ::testing::Values(DType::bf16), dtype_name);

TEST_P(FlashAttention, MatchesDoublePrecision) {
  for (const Case c : {Case{1, 1, 1, 1, 128, 0},      Case{1, 1, 2, 1, 64, 0},      Case{2, 63, 2, 2, 64, 0},
                       Case{1, 64, 3, 1, 128, 0},     Case{2, 65, 2, 2, 128, 0},    Case{1, 127, 2, 1, 64, 0},
                       Case{3, 129, 12, 4, 64, 0},    Case{1, 129, 12, 4, 128, 0},  Case{1, 1000, 2, 2, 128, 0},
                       Case{1, 1000, 3, 1, 64, 0},    Case{2, 129, 2, 1, 128, 1},   Case{1, 200, 2, 2, 64, 1},
                       Case{2, 300, 2, 2, 128, 5},    Case{1, 513, 4, 2, 64, 64},   Case{1, 513, 2, 1, 128, 64},
                       Case{1, 1000, 4, 2, 128, 100}, Case{1, 1000, 2, 2, 64, 100}, Case{1, 700, 1, 1, 128, 699},
                       Case{1, 130, 1, 1, 64, 5000},  Case{2, 257, 9, 9, 128, 40},  Case{3, 200, 12, 6, 64, 0},
                       Case{2, 385, 18, 9, 128, 0},   Case{1, 777, 6, 2, 128, 190}, Case{1, 641, 1, 1, 64, 400}}) {
    SCOPED_TRACE(::testing::Message() << c);
    const Fused f{c};
    const Pair qkv = random_pair(GetParam(), f.shape(), 1);
    const Pair dout = random_pair(GetParam(), f.rows(), 2);
    const Results results = run(f, qkv.device.view(), dout.device.view());

    const reference::Attention a{c.batch, c.positions, c.positions, c.heads, c.key_heads, c.width, c.window};
    const float* const values = qkv.host.host<float>();
    const Doubles q = f.part_of(values, 0, c.heads);
    const Doubles k = f.part_of(values, c.heads, c.key_heads);
    const Doubles v = f.part_of(values, c.heads + c.key_heads, c.key_heads);
    const Doubles grad(dout.host.host<float>(), dout.host.host<float>() + dout.host.numel());
    // Rounded to bf16: the probabilities, and the result; for the gradients also `out`, and d loss / d score.
    const double rounding = 0x1p-9;
    const double sums = 4 * float32_tolerance(c.width + c.positions);
    const Doubles out = reference::attention(a, q, k, v);
    EXPECT_CLOSE(results.out.data(), out.data(), static_cast<std::int64_t>(out.size()), 2 * rounding + sums);
    const Doubles lse = reference::log_sum_exp(a, q, k);
    EXPECT_CLOSE(results.lse.data(), lse.data(), static_cast<std::int64_t>(lse.size()), sums);
    const reference::AttentionGradients g = reference::attention_backward(a, q, k, v, grad);
    const Doubles dq = f.part_of(results.grads.data(), 0, c.heads);
    const Doubles dk = f.part_of(results.grads.data(), c.heads, c.key_heads);
    const Doubles dv = f.part_of(results.grads.data(), c.heads + c.key_heads, c.key_heads);
    EXPECT_CLOSE(dv.data(), g.dv.data(), static_cast<std::int64_t>(dv.size()), 2 * rounding + sums);
    if (c.positions > 1 && c.window != 1) {
      EXPECT_CLOSE(dq.data(), g.dq.data(), static_cast<std::int64_t>(dq.size()), 4 * rounding + sums);
      EXPECT_CLOSE(dk.data(), g.dk.data(), static_cast<std::int64_t>(dk.size()), 4 * rounding + sums);
      RopeTable table(c.width, 10000.0);
      table.reserve(Space::device, c.positions);
      const Results turned = run(f, qkv.device.view(), dout.device.view(), &table);
      EXPECT_EQ(f.part_of(turned.grads.data(), c.heads + c.key_heads, c.key_heads), dv);
      const Doubles dq2 = f.part_of(turned.grads.data(), 0, c.heads);
      const Doubles dk2 = f.part_of(turned.grads.data(), c.heads, c.key_heads);
      const Doubles q2 = turned_back(g.dq, c, c.heads, 10000.0);
      const Doubles k2 = turned_back(g.dk, c, c.key_heads, 10000.0);
      EXPECT_CLOSE(dq2.data(), q2.data(), static_cast<std::int64_t>(dq2.size()), 4 * rounding + sums);
      EXPECT_CLOSE(dk2.data(), k2.data(), static_cast<std::int64_t>(dk2.size()), 4 * rounding + sums);
    } else {
      // A lone key has probability 1: its gradients are 0, up to the rounding of out . dout (terms of size 1).
      const double limit = float32_tolerance(c.width) * static_cast<double>(c.width);
      for (const double x : dq) ASSERT_TRUE(std::abs(x) <= limit) << x;
      for (const double x : dk) ASSERT_TRUE(std::abs(x) <= limit) << x;
    }
  }
}

TEST_P(FlashAttention, WithoutLogSums) {
  const Fused f{{1, 300, 4, 2, 64, 0}};
  const Pair qkv = random_pair(GetParam(), f.shape(), 1);
  const Pair dout = random_pair(GetParam(), f.rows(), 2);
  const Pair out = poisoned_pair(GetParam(), f.rows());
  const TensorView x = qkv.device.view();
  cuda::stream_attention_forward(ctx_, f.q(x), f.k(x), f.v(x), 0, out.device, {});
  EXPECT_EQ(values_of(out.device), run(f, x, dout.device.view()).out);
}

TEST_P(FlashAttention, RepeatsToTheBit) {
  for (const Case c : {Case{2, 1000, 6, 2, 128, 0}, Case{2, 1000, 6, 6, 64, 0}, Case{1, 2000, 4, 4, 128, 300},
                       Case{1, 3000, 18, 6, 128, 0}}) {
    SCOPED_TRACE(::testing::Message() << c);
    const Fused f{c};
    const Pair qkv = random_pair(GetParam(), f.shape(), 3);
    const Pair dout = random_pair(GetParam(), f.rows(), 4);
    RopeTable table(c.width, 10000.0);
    table.reserve(Space::device, c.positions);
    const Results first = run(f, qkv.device.view(), dout.device.view(), &table);
    for (int repeat = 0; repeat < 4; ++repeat) {
      const Results again = run(f, qkv.device.view(), dout.device.view(), &table);
      ASSERT_EQ(again.out, first.out);
      ASSERT_EQ(again.lse, first.lse);
      ASSERT_EQ(again.grads, first.grads);
    }
  }
}

// Changing position p leaves every output before p alone, and, with a window, those that no longer see it.
TEST_P(FlashAttention, IsCausalToTheBit) {
  for (const Case c : {Case{1, 400, 2, 1, 128, 0}, Case{1, 400, 2, 2, 64, 0}, Case{1, 400, 2, 2, 128, 70}}) {
    const Fused f{c};
    const Pair qkv = random_pair(GetParam(), f.shape(), 5);
    const Pair dout = random_pair(GetParam(), f.rows(), 6);
    const std::vector<float> before = run(f, qkv.device.view(), dout.device.view()).out;
    const std::int64_t columns = f.shape()[2];
    const std::int64_t width = c.heads * c.width;
    for (const std::int64_t p : {0, 1, 63, 64, 127, 128, 130, 255, 256, 399}) {
      SCOPED_TRACE(::testing::Message() << c << ", position " << p << " changed");
      const Pair changed = make_pair_of(GetParam(), f.shape());
      copy(qkv.host.view(), changed.host.view());
      for (std::int64_t i = 0; i < columns; ++i) changed.host.host<float>()[p * columns + i] *= -16;
      upload(changed.host, changed.device);
      const std::vector<float> after = run(f, changed.device.view(), dout.device.view()).out;
      bool same = true;
      for (std::int64_t n = 0; n < c.positions; ++n) {
        const bool sees = n >= p && (c.window == 0 || n < p + c.window);
        for (std::int64_t i = n * width; i < (n + 1) * width; ++i) {
          const auto at = static_cast<std::size_t>(i);
          if (!sees) {
            ASSERT_EQ(before[at], after[at]) << "position " << n;
          }
          if (before[at] != after[at]) same = false;
        }
      }
      EXPECT_FALSE(same);
    }
  }
}

TEST_P(FlashAttention, LaterPositionsDoNotMatter) {
  const Fused f{{1, 500, 2, 2, 128, 0}};
  const Pair qkv = random_pair(GetParam(), f.shape(), 7);
  const Pair out = poisoned_pair(GetParam(), f.rows());
  const TensorView x = qkv.device.view();
  cuda::stream_attention_forward(ctx_, f.q(x), f.k(x), f.v(x), 0, out.device, {});
  const std::vector<float> all = values_of(out.device);
  for (const std::int64_t positions : {1, 64, 100, 129, 333}) {
    const Pair prefix = poisoned_pair(GetParam(), {1, positions, 2, 128});
    const TensorView y = x.slice(1, 0, positions);
    cuda::stream_attention_forward(ctx_, f.q(y), f.k(y), f.v(y), 0, prefix.device, {});
    const std::vector<float> some = values_of(prefix.device);
    for (std::size_t i = 0; i < some.size(); ++i) ASSERT_EQ(some[i], all[i]) << positions << " positions, " << i;
  }
}

}  // namespace
}  // namespace photon
