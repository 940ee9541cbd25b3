// 8-bit copies of matrices against a search through all 256 numbers in double precision, and the products of them.
#include "kernels/quantize.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include "kernels/linear8.hpp"
#include "kernels/norm.hpp"
#include "kernels/swiglu.hpp"
#include "parity.hpp"

namespace photon {
namespace {

using namespace testing;

// The number that the bits of an 8-bit float stand for; NaN and infinities as such.
double number_of(int bits, Float8 format) {
  const int mantissa_bits = format == Float8::e4m3 ? 3 : 2;
  const int bias = format == Float8::e4m3 ? 7 : 15;
  const int exponent = (bits & 0x7f) >> mantissa_bits;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x80) != 0 ? -1 : 1;
  if (format == Float8::e4m3 && (bits & 0x7f) == 0x7f) return std::numeric_limits<double>::quiet_NaN();
  if (format == Float8::e5m2 && exponent == 31) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  return sign * (exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, exponent - bias));
}

double largest_of(Float8 format) {
  return format == Float8::e4m3 ? 448 : 57344;
}

// The finite numbers of a format that are not negative, ascending; index i has bits i.
std::vector<double> numbers_of(Float8 format) {
  std::vector<double> numbers;
  for (int bits = 0; bits < 128 && std::isfinite(number_of(bits, format)); ++bits) {
    numbers.push_back(number_of(bits, format));
  }
  return numbers;
}

// x to the nearest number, ties to the one with even bits; what lies beyond the last becomes the last.
int nearest(double x, const std::vector<double>& numbers) {
  const double size = std::abs(x);
  const auto above = std::lower_bound(numbers.begin(), numbers.end(), size);
  auto bits = static_cast<int>(above - numbers.begin());
  if (above == numbers.end()) {
    bits = static_cast<int>(numbers.size()) - 1;
  } else if (*above != size) {
    const double down = size - numbers[static_cast<std::size_t>(bits - 1)];
    const double up = *above - size;
    if (down < up || (down == up && bits % 2 == 1)) --bits;
  }
  return std::signbit(x) ? bits | 0x80 : bits;
}

// The largest power of two by which `largest` can be multiplied, as its inverse.
double scale_of(double largest, Float8 format) {
  if (largest == 0) return 1;
  double scale = std::ldexp(1.0, 126);
  while (scale > std::ldexp(1.0, -126) && largest / (scale / 2) <= largest_of(format)) scale /= 2;
  return scale;
}

std::vector<std::uint8_t> bytes_of(const ConstTensorView& from) {
  const Tensor there(Space::device, DType::u8, from.shape());
  const Tensor here(Space::host, DType::u8, from.shape());
  copy(from, there.view());
  copy(there.view(), here.view());
  return {here.host<std::uint8_t>(), here.host<std::uint8_t>() + here.numel()};
}

struct Storage {
  Storage(Float8 format, std::int64_t rows, std::int64_t columns, std::int64_t gap = 0)
      : values(Space::device, DType::u8, {rows, columns + gap}),
        transposed(Space::device, DType::u8, {columns, rows + gap}),
        scale(Space::device, DType::f32, {1}),
        view{format, values.view().slice(1, 0, columns), transposed.view().slice(1, 0, rows), scale.view()} {
    device::fill_bytes(values.view().data(), 0xff, values.numel());
    device::fill_bytes(transposed.view().data(), 0xff, transposed.numel());
  }
  Tensor values;
  Tensor transposed;
  Tensor scale;
  Quantized view;
};

class CudaQuantize : public OnDevice {
 protected:
  using Value = std::function<double(std::int64_t)>;

  // A bf16 matrix on the device, its values on the host.
  Pair matrix(std::int64_t rows, std::int64_t columns, const Value& value) {
    Pair pair = make_pair_of(DType::bf16, {rows, columns});
    for (std::int64_t i = 0; i < rows * columns; ++i) {
      pair.host.host<float>()[i] = to_float(to_bfloat16(static_cast<float>(value(i))));
    }
    upload(pair.host, pair.device);
    return pair;
  }

  void expect_quantized(const Storage& actual, const float* x, std::int64_t stride, std::int64_t rows,
                        std::int64_t columns, double largest) {
    device::synchronize(stream_);
    const std::vector<double> numbers = numbers_of(actual.view.format);
    const double scale = scale_of(largest, actual.view.format);
    EXPECT_EQ(static_cast<double>(values_of(actual.scale)[0]), scale);
    const std::vector<std::uint8_t> values = bytes_of(actual.view.values);
    const std::vector<std::uint8_t> transposed = bytes_of(actual.view.transposed);
    int wrong = 0;
    for (std::int64_t i = 0; i < rows && wrong < 5; ++i) {
      for (std::int64_t j = 0; j < columns && wrong < 5; ++j) {
        const double value = static_cast<double>(x[i * stride + j]);
        const int expected = nearest(value / scale, numbers);
        const int plain = values[static_cast<std::size_t>(i * columns + j)];
        const int turned = transposed[static_cast<std::size_t>(j * rows + i)];
        if (plain == expected && turned == expected) continue;
        ++wrong;
        ADD_FAILURE() << "[" << i << ", " << j << "] = " << value << " at scale " << scale << ": " << plain << " and "
                      << turned << " transposed, expected " << expected;
      }
    }
  }

  static double largest_in(const Pair& pair) {
    double largest = 0;
    for (std::int64_t i = 0; i < pair.host.numel(); ++i) {
      largest = std::max(largest, static_cast<double>(std::abs(pair.host.host<float>()[i])));
    }
    return largest;
  }
};
INSTANTIATE_TEST_SUITE_P(, CudaQuantize, ::testing::Values(DType::bf16), dtype_name);

TEST_P(CudaQuantize, EveryElementIsTheNearestNumber) {
  for (const auto& [rows, columns] :
       {std::pair<std::int64_t, std::int64_t>{16, 16}, {48, 272}, {128, 128}, {144, 400}, {1040, 1536}}) {
    for (const Float8 format : {Float8::e4m3, Float8::e5m2}) {
      // Sizes over many powers of two, so that numbers below the normal ones occur too.
      for (const double size : {1.0, 3e-20, 1e30}) {
        SCOPED_TRACE(::testing::Message() << rows << " x " << columns << " of size " << size
                                          << (format == Float8::e4m3 ? " e4m3" : " e5m2"));
        const Pair x = matrix(rows, columns, [&](std::int64_t i) {
          const auto at = static_cast<std::uint64_t>(i);
          return size * random_normal(1, 2, at) * std::exp2(-static_cast<double>(random_bits(1, 3, at) % 24));
        });
        const Storage to(format, rows, columns);
        quantize(ctx_, x.device, to.view);
        expect_quantized(to, x.host.host<float>(), columns, rows, columns, largest_in(x));
      }
    }
  }
}

TEST_P(CudaQuantize, ScalesByTheLargestElement) {
  // At the end of the range, just beyond it, at powers of two, where f32 ends, and nothing but zeros.
  for (const double largest : {448.0, 450.0, 1.0, 1.75, 1.7578125, 0x1p-126, 0x1p-130, 3.3e38, 0.0}) {
    for (const std::int64_t place : {0, 77, 48 * 80 - 1}) {
      for (const Float8 format : {Float8::e4m3, Float8::e5m2}) {
        SCOPED_TRACE(::testing::Message() << largest << " at " << place);
        const Pair x = matrix(48, 80, [&](std::int64_t i) {
          if (i == place) return -largest;
          return largest * (static_cast<double>(i % 255) - 127) / 128;
        });
        const Storage to(format, 48, 80);
        quantize(ctx_, x.device, to.view);
        expect_quantized(to, x.host.host<float>(), 80, 48, 80, largest_in(x));
      }
    }
  }
}

TEST_P(CudaQuantize, TakesStridedMatricesAndOneOrientation) {
  const Pair x = random_pair(DType::bf16, {208, 352}, 4);
  const ConstTensorView part = x.device.view().slice(1, 32, 160);
  double largest = 0;
  for (std::int64_t i = 0; i < 208; ++i) {
    for (std::int64_t j = 32; j < 192; ++j) {
      largest = std::max(largest, static_cast<double>(std::abs(x.host.host<float>()[i * 352 + j])));
    }
  }
  const Storage to(Float8::e4m3, 208, 160, 48);
  quantize(ctx_, part, to.view);
  expect_quantized(to, x.host.host<float>() + 32, 352, 208, 160, largest);
  const Storage one(Float8::e4m3, 208, 160);
  quantize(ctx_, part, {Float8::e4m3, one.view.values, {}, one.view.scale});
  quantize(ctx_, part, {Float8::e4m3, {}, one.view.transposed, one.view.scale});
  expect_quantized(one, x.host.host<float>() + 32, 352, 208, 160, largest);
}

TEST_P(CudaQuantize, TakesABoundAndSaturates) {
  const Pair x = random_pair(DType::bf16, {64, 96}, 5);
  const Tensor bound(Space::device, DType::f32, {1});
  for (const float given : {100.0F, 0.25F}) {
    copy(host_view(&given, {1}), bound.view());
    const Storage to(Float8::e4m3, 64, 96);
    quantize(ctx_, x.device, to.view, bound);
    expect_quantized(to, x.host.host<float>(), 96, 64, 96, static_cast<double>(given));
  }
}

TEST_P(CudaQuantize, ANaNReachesEveryProduct) {
  const Pair w = random_pair(DType::bf16, {32, 64}, 6);
  const Storage weight(Float8::e4m3, 32, 64);
  quantize(ctx_, w.device, weight.view);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    for (const Float8 format : {Float8::e4m3, Float8::e5m2}) {
      Pair x = random_pair(DType::bf16, {48, 64}, 7);
      x.host.host<float>()[1234] = bad;
      upload(x.host, x.device);
      const Storage to(format, 48, 64);
      quantize(ctx_, x.device, to.view);
      EXPECT_TRUE(std::isnan(values_of(to.scale)[0])) << bad;
      const Tensor y(Space::device, DType::bf16, {48, 32});
      linear8_forward(ctx_, to.view, weight.view, y);
      for (const float value : values_of(y)) EXPECT_TRUE(std::isnan(value)) << bad;
    }
  }
}

// The three products of a layer against double precision: of the rounded matrices, to what sums of f32 and the result's
// rounding leave; and of the matrices before rounding, to half a unit of the last place of either format, of which
// independent errors leave the root of the sum of squares.
TEST_P(CudaQuantize, ProductsOfALayer) {
  constexpr std::int64_t rows = 176;
  constexpr std::int64_t inputs = 336;
  constexpr std::int64_t outputs = 208;
  const Pair x = random_pair(DType::bf16, {rows, inputs}, 8);
  const Pair w = random_pair(DType::bf16, {outputs, inputs}, 9, 0.02);
  const Pair dy = random_pair(DType::bf16, {rows, outputs}, 10, 1e-6);
  const Storage x8(Float8::e4m3, rows, inputs);
  const Storage w8(Float8::e4m3, outputs, inputs);
  const Storage dy8(Float8::e5m2, rows, outputs);
  quantize(ctx_, x.device, x8.view);
  quantize(ctx_, w.device, w8.view);
  quantize(ctx_, dy.device, dy8.view);

  using Matrix = std::vector<double>;
  const auto exact = [](const Pair& pair) {
    return Matrix(pair.host.host<float>(), pair.host.host<float>() + pair.host.numel());
  };
  const auto rounded = [](const Pair& pair, const Storage& storage) {
    const std::vector<double> numbers = numbers_of(storage.view.format);
    const double scale = scale_of(largest_in(pair), storage.view.format);
    Matrix values;
    for (std::int64_t i = 0; i < pair.host.numel(); ++i) {
      values.push_back(scale * number_of(nearest(static_cast<double>(pair.host.host<float>()[i]) / scale, numbers),
                                         storage.view.format));
    }
    return values;
  };
  // sum_k a[i * a_row + k * a_step] * b[j * b_row + k * b_step]
  struct Strides {
    std::int64_t row;
    std::int64_t step;
  };
  const auto product = [](const Matrix& a, Strides as, const Matrix& b, Strides bs, std::int64_t m, std::int64_t n,
                          std::int64_t k) {
    Matrix c(static_cast<std::size_t>(m * n));
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t l = 0; l < k; ++l) {
          c[static_cast<std::size_t>(i * n + j)] += a[static_cast<std::size_t>(i * as.row + l * as.step)] *
                                                    b[static_cast<std::size_t>(j * bs.row + l * bs.step)];
        }
      }
    }
    return c;
  };
  const double e4m3 = 0x1p-4;
  const double e5m2 = 0x1p-3;
  const auto check = [&](const char* what, const Tensor& actual, const Matrix& of_rounded, const Matrix& of_exact,
                         double result, double formats) {
    SCOPED_TRACE(what);
    const std::vector<float> values = values_of(actual);
    EXPECT_CLOSE(values.data(), of_rounded.data(), actual.numel(), result);
    EXPECT_CLOSE(values.data(), of_exact.data(), actual.numel(), formats + result);
  };
  const Matrix xr = rounded(x, x8);
  const Matrix wr = rounded(w, w8);
  const Matrix dyr = rounded(dy, dy8);

  const Pair y = poisoned_pair(DType::bf16, {rows, outputs});
  linear8_forward(ctx_, x8.view, w8.view, y.device);
  const Strides of_x{inputs, 1};
  check("y", y.device, product(xr, of_x, wr, of_x, rows, outputs, inputs),
        product(exact(x), of_x, exact(w), of_x, rows, outputs, inputs), 0x1p-8 + 0x1p-8, std::hypot(e4m3, e4m3));

  const Pair dx = poisoned_pair(DType::bf16, {rows, inputs});
  linear8_backward_input(ctx_, dy8.view, w8.view, dx.device);
  check("dx", dx.device, product(dyr, {outputs, 1}, wr, {1, inputs}, rows, inputs, outputs),
        product(exact(dy), {outputs, 1}, exact(w), {1, inputs}, rows, inputs, outputs), 0x1p-8 + 0x1p-10,
        std::hypot(e4m3, e5m2));

  const Pair dw = poisoned_pair(DType::f32, {outputs, inputs});
  const Matrix dw_rounded = product(dyr, {1, outputs}, xr, {1, inputs}, outputs, inputs, rows);
  linear8_backward_weight(ctx_, dy8.view, x8.view, dw.device, Write::replace);
  check("dw", dw.device, dw_rounded, product(exact(dy), {1, outputs}, exact(x), {1, inputs}, outputs, inputs, rows),
        0x1p-10, std::hypot(e4m3, e5m2));
  linear8_backward_weight(ctx_, dy8.view, x8.view, dw.device);
  Matrix twice = dw_rounded;
  for (double& one : twice) one *= 2;
  EXPECT_CLOSE(values_of(dw.device).data(), twice.data(), dw.device.numel(), 0x1p-10);

  // Some rows of a weight, as a trimmed layer takes them.
  const Pair part = poisoned_pair(DType::bf16, {rows, 64});
  linear8_forward(ctx_, x8.view, w8.view.rows(144, 64), part.device);
  const Matrix some(wr.begin() + 144 * inputs, wr.end());
  const Matrix of_some = product(xr, of_x, some, of_x, rows, 64, inputs);
  EXPECT_CLOSE(values_of(part.device).data(), of_some.data(), part.device.numel(), 0x1p-7);
  const Pair some_dy = random_pair(DType::bf16, {rows, 64}, 11);
  const Storage some_dy8(Float8::e5m2, rows, 64);
  quantize(ctx_, some_dy.device, some_dy8.view);
  linear8_backward_input(ctx_, some_dy8.view, w8.view.rows(144, 64), dx.device);
  const Matrix some_dx = product(rounded(some_dy, some_dy8), {64, 1}, some, {1, inputs}, rows, inputs, 64);
  EXPECT_CLOSE(values_of(dx.device).data(), some_dx.data(), dx.device.numel(), 0x1p-7);
}

// The ops whose results are quantized find the largest value on the way: exactly that of what they wrote.
TEST_P(CudaQuantize, LargestValueOfAResult) {
  const auto largest_in_result = [&](const Tensor& result) {
    float most = 0;
    for (const float x : values_of(result)) most = std::isnan(x) ? x : std::max(most, std::abs(x));
    return most;
  };
  const Tensor largest(Space::device, DType::f32, {1});
  // Widths for a warp a row, a block a row, and the bodies without packs.
  for (const auto& [rows, width] :
       {std::pair<std::int64_t, std::int64_t>{1, 16}, {37, 272}, {1001, 1536}, {65, 4096}, {9, 9216}, {12, 30}}) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << width);
    for (std::uint64_t seed = 1; seed < 4; ++seed) {
      const Pair x = random_pair(DType::bf16, {rows, width}, seed);
      const Pair delta = random_pair(DType::bf16, {rows, width}, seed + 10, 3.0);
      const Pair w = random_pair(DType::f32, {width}, seed + 20);
      const Tensor y(Space::device, DType::bf16, {rows, width});
      const Tensor rstd(Space::device, DType::f32, {rows});
      const Tensor dw(Space::device, DType::f32, {width});
      rms_norm_forward(ctx_, x.device, w.device, 1e-5, y, rstd, largest);
      EXPECT_EQ(values_of(largest)[0], largest_in_result(y));
      for (const ConstTensorView& before : {ConstTensorView(), ConstTensorView(y.view())}) {
        rms_norm_backward(ctx_, delta.device, x.device, w.device, rstd, before, y, dw, {}, largest);
        EXPECT_EQ(values_of(largest)[0], largest_in_result(y));
      }
      const Pair gate_up = random_pair(DType::bf16, {rows, 2 * width}, seed + 30);
      swiglu_forward(ctx_, gate_up.device, y, largest);
      EXPECT_EQ(values_of(largest)[0], largest_in_result(y));
      swiglu_backward(ctx_, delta.device, gate_up.device, gate_up.device, {}, largest);
      EXPECT_EQ(values_of(largest)[0], largest_in_result(gate_up.device));
    }
  }
  const Pair bad = random_pair(DType::bf16, {16, 64}, 1);
  bad.host.host<float>()[200] = std::numeric_limits<float>::quiet_NaN();
  upload(bad.host, bad.device);
  const Tensor out(Space::device, DType::bf16, {16, 32});
  swiglu_forward(ctx_, bad.device, out, largest);
  EXPECT_TRUE(std::isnan(values_of(largest)[0]));
}

TEST_P(CudaQuantize, RefusesWhatItCannotTake) {
  const auto message = [](const auto& call) {
    try {
      call();
    } catch (const std::exception& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const Tensor x(Space::device, DType::bf16, {24, 32});
  const Storage to(Float8::e4m3, 24, 32);
  EXPECT_NE(message([&] { quantize(ctx_, x, to.view); }).find("no multiples of 16"), std::string::npos);
  const Tensor wide(Space::device, DType::bf16, {32, 48});
  const Storage good(Float8::e4m3, 32, 32);
  EXPECT_NE(message([&] { quantize(ctx_, wide.view().slice(1, 4, 32), good.view); }).find("aligned to 16 bytes"),
            std::string::npos);
  EXPECT_NE(message([&] { quantize(host_, wide, good.view); }).find("8-bit floats in host memory"), std::string::npos);
}

}  // namespace
}  // namespace photon
