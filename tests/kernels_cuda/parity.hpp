// The same op on the host and on a GPU, over the same values.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "tensor/context.hpp"
#include "tensor/half.hpp"
#include "testing/compare.hpp"

namespace photon::testing {

// One tensor twice: f32 on the host, `dtype` on the device. The host's values are already rounded to `dtype`, so that
// both ops read the same numbers.
struct Pair {
  Tensor host;
  Tensor device;
};

inline void upload(const Tensor& from, const Tensor& to) {
  if (to.view().dtype() == DType::f32) return copy(from.view(), to.view());
  const Tensor rounded(Space::host, DType::bf16, from.shape());
  for (std::int64_t i = 0; i < from.numel(); ++i) rounded.host<bfloat16>()[i] = to_bfloat16(from.host<float>()[i]);
  copy(rounded.view(), to.view());
}

inline std::vector<float> download(const ConstTensorView& from) {
  std::vector<float> values(static_cast<std::size_t>(from.numel()));
  const Tensor here(Space::host, from.dtype(), from.shape());
  copy(from, here.view());
  for (std::int64_t i = 0; i < from.numel(); ++i) {
    values[static_cast<std::size_t>(i)] =
        from.dtype() == DType::f32 ? here.host<float>()[i] : to_float(here.host<bfloat16>()[i]);
  }
  return values;
}

inline Pair make_pair_of(DType dtype, const Shape& shape) {
  return {Tensor(Space::host, DType::f32, shape), Tensor(Space::device, dtype, shape)};
}

// Normal values times `size`, a function of the seed.
inline Pair random_pair(DType dtype, const Shape& shape, std::uint64_t seed, double size = 1.0) {
  Pair pair = make_pair_of(dtype, shape);
  for (std::int64_t i = 0; i < pair.host.numel(); ++i) {
    const auto x = static_cast<float>(size * random_normal(seed, 7, static_cast<std::uint64_t>(i)));
    pair.host.host<float>()[i] = dtype == DType::f32 ? x : to_float(to_bfloat16(x));
  }
  upload(pair.host, pair.device);
  return pair;
}

// NaN everywhere: an output element that an op leaves alone fails the comparison.
inline Pair poisoned_pair(DType dtype, const Shape& shape) {
  Pair pair = make_pair_of(dtype, shape);
  for (std::int64_t i = 0; i < pair.host.numel(); ++i)
    pair.host.host<float>()[i] = std::numeric_limits<float>::quiet_NaN();
  upload(pair.host, pair.device);
  return pair;
}

struct IntPair {
  Tensor host;
  Tensor device;
};

template <class T>
IntPair pair_of(const std::vector<T>& values) {
  const Shape shape = {static_cast<std::int64_t>(values.size())};
  IntPair pair{Tensor(Space::host, dtype_of<T>, shape), Tensor(Space::device, dtype_of<T>, shape)};
  std::copy(values.begin(), values.end(), pair.host.host<T>());
  copy(pair.host.view(), pair.device.view());
  return pair;
}

inline std::vector<std::int32_t> random_integers(std::int64_t count, std::int32_t below, std::uint64_t seed) {
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<std::int32_t>(random_bits(seed, 3, static_cast<std::uint64_t>(i)) %
                                               static_cast<std::uint64_t>(below)));
  }
  return values;
}

// A device context with a poisoned scratch arena; the cases are skipped where there is no GPU.
class OnDevice : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (device::count() == 0) GTEST_SKIP() << "this machine has no GPU";
    stream_ = device::make_stream();
    scratch_ = Arena(Space::device, std::int64_t{256} << 20, "the test's scratch");
    scratch_.poison(true);
    ctx_ = {.space = Space::device, .numerics = Numerics::deterministic, .stream = stream_, .scratch = &scratch_};
    host_.numerics = Numerics::deterministic;
  }
  void TearDown() override {
    if (stream_.handle() != nullptr) device::destroy_stream(stream_);
  }

  // Of one rounding to the dtype under test, and of float32 sums of so many terms.
  double tolerance(std::int64_t terms) const {
    return float32_tolerance(terms) + (GetParam() == DType::f32 ? 0x1p-22 : 0x1p-8);
  }

  // The whole device tensor against the whole host tensor. NaN left on both sides fails.
  void expect_match(const Pair& pair, double limit) {
    device::synchronize(stream_);
    const std::vector<float> actual = download(pair.device.view());
    EXPECT_CLOSE(actual.data(), pair.host.host<float>(), pair.host.numel(), limit);
  }
  // The same for a slice: other elements are not looked at.
  void expect_match(const ConstTensorView& actual, const ConstTensorView& expected, double limit) {
    device::synchronize(stream_);
    const Tensor there(Space::device, actual.dtype(), actual.shape());
    const Tensor here(Space::host, DType::f32, expected.shape());
    copy(actual, there.view());
    copy(expected, here.view());
    const std::vector<float> values = download(there.view());
    EXPECT_CLOSE(values.data(), here.host<float>(), here.numel(), limit);
  }
  std::vector<float> values_of(const Tensor& tensor) {
    device::synchronize(stream_);
    return download(tensor.view());
  }

  Stream stream_;
  Arena scratch_;
  Context ctx_;
  Context host_;
};

inline std::string dtype_name(const ::testing::TestParamInfo<DType>& info) {
  return std::string(name_of(info.param));
}

}  // namespace photon::testing

#define PHOTON_BOTH_DTYPES(suite) \
  INSTANTIATE_TEST_SUITE_P(, suite, ::testing::Values(DType::f32, DType::bf16), ::photon::testing::dtype_name)
