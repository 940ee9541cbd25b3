// The ways a matrix product is computed besides the plain one: few rows, measured algorithms, 8-bit floats.
#include <cmath>

#include "kernels/cuda/blas.hpp"
#include "kernels/product_choices.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

// x w^T in double precision, added to `before`.
std::vector<double> product(const float* x, const float* w, std::int64_t m, std::int64_t n, std::int64_t k,
                            const std::vector<double>& before) {
  std::vector<double> y = before;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t o = 0; o < n; ++o) {
      for (std::int64_t j = 0; j < k; ++j) {
        y[static_cast<std::size_t>(i * n + o)] += static_cast<double>(x[i * k + j]) * static_cast<double>(w[o * k + j]);
      }
    }
  }
  return y;
}

class CudaProducts : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    ctx_.numerics = Numerics::tuned;
  }
};
INSTANTIATE_TEST_SUITE_P(, CudaProducts, ::testing::Values(DType::bf16), dtype_name);

TEST_P(CudaProducts, FewRows) {
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{1, 8}, {7, 264}, {65, 1536}, {1001, 3000}}) {
    const Pair w = random_pair(GetParam(), {out, in}, 1);
    for (const std::int64_t rows : {1, 2, 9}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << in << " x " << out);
      const Pair x = random_pair(GetParam(), {rows, in}, 2);
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const double limit = float32_tolerance(in) + (dtype == DType::f32 ? 0.0 : 0x1p-8);
        const Pair y = poisoned_pair(dtype, {rows, out});
        linear_forward(ctx_, x.device, w.device, y.device);
        const std::vector<double> none(static_cast<std::size_t>(rows * out));
        const std::vector<double> expected = product(x.host.host<float>(), w.host.host<float>(), rows, out, in, none);
        EXPECT_CLOSE(values_of(y.device).data(), expected.data(), rows * out, limit);
        const Pair more = random_pair(dtype, {rows, out}, 3);
        linear_forward(ctx_, x.device, w.device, more.device, more.device);
        const std::vector<double> before(more.host.host<float>(), more.host.host<float>() + rows * out);
        const std::vector<double> sums = product(x.host.host<float>(), w.host.host<float>(), rows, out, in, before);
        EXPECT_CLOSE(values_of(more.device).data(), sums.data(), rows * out, limit);
        const Pair again = random_pair(dtype, {rows, out}, 3);
        const Pair beside = poisoned_pair(dtype, {rows, out});
        linear_forward(ctx_, x.device, w.device, beside.device, again.device);
        EXPECT_CLOSE(values_of(beside.device).data(), sums.data(), rows * out, limit);
      }
    }
  }
}

TEST_P(CudaProducts, MeasuredChoicesAreKept) {
  const Pair x = random_pair(GetParam(), {777, 136}, 1);
  const Pair w = random_pair(GetParam(), {248, 136}, 2);
  const auto count = [] {
    const std::string json = product_choices();
    std::size_t found = 0;
    for (std::size_t at = json.find("n=248 k=136"); at != std::string::npos; at = json.find("n=248 k=136", at + 1)) {
      ++found;
    }
    return found;
  };
  ASSERT_EQ(count(), 0U);
  const Pair y = poisoned_pair(GetParam(), {777, 248});
  linear_forward(ctx_, x.device, w.device, y.device);
  EXPECT_EQ(count(), 1U);
  const std::vector<float> first = values_of(y.device);
  linear_forward(ctx_, x.device, w.device, y.device);
  EXPECT_EQ(values_of(y.device), first);
  // 770 rows share the choice of 777, 600 do not; in deterministic mode nothing is measured.
  const Pair fewer = poisoned_pair(GetParam(), {770, 248});
  linear_forward(ctx_, x.device.view().slice(0, 0, 770), w.device, fewer.device);
  EXPECT_EQ(count(), 1U);
  linear_forward(ctx_, x.device.view().slice(0, 0, 600), w.device, y.device.view().slice(0, 0, 600));
  EXPECT_EQ(count(), 2U);
  ctx_.numerics = Numerics::deterministic;
  linear_forward(ctx_, x.device.view().slice(0, 0, 300), w.device, y.device.view().slice(0, 0, 300));
  EXPECT_EQ(count(), 2U);
}

// The values that the bits of an 8-bit float stand for.
float value_of(std::uint8_t bits, Float8 format) {
  const int mantissa_bits = format == Float8::e4m3 ? 3 : 2;
  const int bias = format == Float8::e4m3 ? 7 : 15;
  const int exponent = (bits & 0x7f) >> mantissa_bits;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  const double size = exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, exponent - bias);
  return static_cast<float>((bits & 0x80) != 0 ? -size : size);
}

struct Matrix8 {
  Tensor device;
  std::vector<float> values;
};
// Random bits with moderate exponents: no NaN, no infinity.
Matrix8 random_matrix8(Float8 format, std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  const Tensor host(Space::host, DType::u8, {rows, columns});
  Matrix8 matrix{Tensor(Space::device, DType::u8, {rows, columns}), {}};
  const int low = format == Float8::e4m3 ? 4 << 3 : 12 << 2;
  const int range = format == Float8::e4m3 ? 5 << 3 : 5 << 2;
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const std::uint64_t bits = random_bits(seed, 5, static_cast<std::uint64_t>(i));
    const int magnitude = low + static_cast<int>(bits % static_cast<std::uint64_t>(range));
    host.host<std::uint8_t>()[i] = static_cast<std::uint8_t>(magnitude | (static_cast<int>(bits >> 60) & 1) << 7);
    matrix.values.push_back(value_of(host.host<std::uint8_t>()[i], format));
  }
  copy(host.view(), matrix.device.view());
  return matrix;
}

TEST_P(CudaProducts, EightBitFloats) {
  const Pair a_scale = random_pair(DType::f32, {1}, 1);
  const Pair b_scale = random_pair(DType::f32, {1}, 2);
  const double factor =
      static_cast<double>(a_scale.host.host<float>()[0]) * static_cast<double>(b_scale.host.host<float>()[0]);
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{16, 16, 16}, {48, 80, 272}, {160, 144, 1536}}) {
    for (const Float8 format : {Float8::e4m3, Float8::e5m2}) {
      SCOPED_TRACE(::testing::Message() << m << " x " << n << " x " << k << (format == Float8::e4m3 ? "" : " e5m2"));
      const Matrix8 a = random_matrix8(format, m, k, 3);
      const Matrix8 b = random_matrix8(Float8::e4m3, n, k, 4);
      const std::vector<double> none(static_cast<std::size_t>(m * n));
      std::vector<double> expected = product(a.values.data(), b.values.data(), m, n, k, none);
      for (double& x : expected) x *= factor;
      for (const bool fast : {false, true}) {
        const Pair c = poisoned_pair(DType::bf16, {m, n});
        cuda::multiply(ctx_, {.a = a.device,
                              .a_format = format,
                              .a_scale = a_scale.device,
                              .b = b.device,
                              .b_scale = b_scale.device,
                              .c = c.device,
                              .fast = fast});
        // Hopper's tensor cores keep 14 bits between the terms of an 8-bit product.
        EXPECT_CLOSE(values_of(c.device).data(), expected.data(), m * n, 0x1p-8 + (fast ? 0x1p-8 : 0x1p-10));
      }
      const Pair sums = random_pair(DType::f32, {m, n}, 5);
      std::vector<double> added = expected;
      for (std::size_t i = 0; i < added.size(); ++i) added[i] += static_cast<double>(sums.host.host<float>()[i]);
      cuda::multiply(ctx_, {.a = a.device,
                            .a_format = format,
                            .a_scale = a_scale.device,
                            .b = b.device,
                            .b_scale = b_scale.device,
                            .c = sums.device,
                            .added = sums.device.view()});
      EXPECT_CLOSE(values_of(sums.device).data(), added.data(), m * n, 0x1p-10);
    }
  }
}

}  // namespace
}  // namespace photon
