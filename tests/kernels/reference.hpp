// The ops in double precision, written as their headers say and nothing cleverer; and the arrays that the tests feed
// them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cpu/loops.hpp"
#include "kernels/linear.hpp"
#include "tensor/context.hpp"

namespace photon::testing {

using Doubles = std::vector<double>;

// A host float tensor. With a gap, rows do not touch: dims 0 .. rank-2 have that many unused floats after each step.
// The gaps hold NaN, so an op that reads them shows it in its result and one that writes them fails gaps_intact().
class Field {
 public:
  static Field random(const Shape& shape, const std::string& name, std::int64_t gap = 0, double deviation = 1.0);
  static Field poison(const Shape& shape, std::int64_t gap = 0);  // all NaN
  static Field filled(const Shape& shape, float value, std::int64_t gap = 0);

  TensorView view() { return TensorView(data_.data(), DType::f32, Space::host, shape_, strides_); }
  ConstTensorView view() const { return ConstTensorView(data_.data(), DType::f32, Space::host, shape_, strides_); }
  Doubles values() const;             // in logical order
  std::vector<float> floats() const;  // in logical order
  bool gaps_intact() const;

 private:
  Field(const Shape& shape, std::int64_t gap);
  template <class Visit>
  void each(Visit visit) const;

  Shape shape_;
  Shape strides_;
  std::vector<float> data_;
};

std::vector<std::int32_t> random_tokens(std::int64_t n, std::int64_t vocabulary, const std::string& name);

// Runs a body under each instruction set that this machine has.
class EachIsa : public ::testing::TestWithParam<cpu::Isa> {
 protected:
  void SetUp() override;
  void TearDown() override;

 private:
  const cpu::Loops* before_ = nullptr;
};
std::string isa_name(const ::testing::TestParamInfo<cpu::Isa>& info);
inline auto all_isas() {
  return ::testing::Values(cpu::Isa::baseline, cpu::Isa::avx2, cpu::Isa::avx512);
}

// Sets the number of OpenMP threads for a scope.
class Threads {
 public:
  explicit Threads(int count);
  ~Threads();

 private:
  int before_;
};

// Compares `gradient` with central differences of `loss` around x: at up to 48 elements one by one, and along a random
// direction that reaches all of them.
void expect_gradient(const std::function<double(const Doubles&)>& loss, const Doubles& x, const Doubles& gradient,
                     double tolerance, const std::string& what);

// ||a - b|| <= tolerance * ||b||; NaN fails.
void expect_close(const Doubles& a, const Doubles& b, double tolerance, const std::string& what);

double dot(const Doubles& a, const Doubles& b);

namespace reference {

Doubles linear(const Doubles& x, const Doubles& w, std::int64_t n, std::int64_t o, std::int64_t k);
Doubles rms_norm(const Doubles& x, const Doubles& w, double eps, std::int64_t n, std::int64_t d);
Doubles swiglu(const Doubles& gate_up, std::int64_t n, std::int64_t f);

struct Attention {
  std::int64_t batch, queries, keys, query_heads, key_heads, head_width;
  std::int64_t window = 0;
  // Query j stands at position keys - queries + j, key p at position p.
};
Doubles attention(const Attention& a, const Doubles& q, const Doubles& k, const Doubles& v);
// The gradient of dot(attention(q, k, v), dout); itself checked against finite differences.
struct AttentionGradients {
  Doubles dq, dk, dv;
};
AttentionGradients attention_backward(const Attention& a, const Doubles& q, const Doubles& k, const Doubles& v,
                                      const Doubles& dout);
Doubles log_sum_exp(const Attention& a, const Doubles& q, const Doubles& k);  // [batch, heads, queries]

// loss[n], 0 where masked (mask may be empty).
Doubles head_loss(const Doubles& y, const Doubles& w, const std::vector<std::int32_t>& targets,
                  const std::vector<std::uint8_t>& mask, std::int64_t n, std::int64_t d, std::int64_t v);

}  // namespace reference
}  // namespace photon::testing
