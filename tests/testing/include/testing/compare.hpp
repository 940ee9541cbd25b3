// Comparisons that a NaN cannot pass.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace photon::testing {

// ||a - b|| / ||b|| in double (||a|| when b is all zero). NaN anywhere gives NaN.
template <class A, class B>
double relative_difference(const A* a, const B* b, std::int64_t n) {
  double difference = 0;
  double norm = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// Rounding of a float32 sum of `terms` products grows as sqrt(terms) in the mean; the factor leaves room for the worst
// case.
inline double float32_tolerance(std::int64_t terms) {
  return 8 * 0x1p-24 * std::sqrt(static_cast<double>(std::max<std::int64_t>(terms, 1)));
}

}  // namespace photon::testing

// Written as !(x <= limit), so that NaN fails.
#define EXPECT_CLOSE(a, b, n, tolerance)                                                    \
  do {                                                                                      \
    const double photon_difference = ::photon::testing::relative_difference((a), (b), (n)); \
    EXPECT_TRUE(photon_difference <= (tolerance))                                           \
        << "relative difference " << photon_difference << " > " << (tolerance);             \
  } while (false)
