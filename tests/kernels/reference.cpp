#include "reference.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/random.hpp"
#include "testing/compare.hpp"

namespace photon::testing {

namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

Shape spread(const Shape& shape, std::int64_t gap) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step = step * shape[i] + (i > 0 ? gap : 0);
  }
  return strides;
}

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

}  // namespace

Field::Field(const Shape& shape, std::int64_t gap)
    : shape_(shape),
      strides_(spread(shape, gap)),
      data_(at(shape.rank() == 0 ? 1 : std::max<std::int64_t>(1, shape[0] * strides_[0])), nan) {}

template <class Visit>
void Field::each(Visit visit) const {
  const std::int64_t n = shape_.numel();
  for (std::int64_t i = 0; i < n; ++i) {
    std::int64_t rest = i;
    std::int64_t where = 0;
    for (int d = shape_.rank() - 1; d >= 0; --d) {
      where += rest % shape_[d] * strides_[d];
      rest /= shape_[d];
    }
    visit(i, at(where));
  }
}

Field Field::random(const Shape& shape, const std::string& name, std::int64_t gap, double deviation) {
  Field f(shape, gap);
  const std::uint64_t stream = hash_name(name);
  f.each([&](std::int64_t i, std::size_t where) {
    f.data_[where] = static_cast<float>(deviation * random_normal(7, stream, static_cast<std::uint64_t>(i)));
  });
  return f;
}

Field Field::poison(const Shape& shape, std::int64_t gap) {
  return Field(shape, gap);
}

Field Field::filled(const Shape& shape, float value, std::int64_t gap) {
  Field f(shape, gap);
  f.each([&](std::int64_t, std::size_t where) { f.data_[where] = value; });
  return f;
}

std::vector<float> Field::floats() const {
  std::vector<float> x(at(shape_.numel()));
  each([&](std::int64_t i, std::size_t where) { x[at(i)] = data_[where]; });
  return x;
}

Doubles Field::values() const {
  const std::vector<float> x = floats();
  return Doubles(x.begin(), x.end());
}

bool Field::gaps_intact() const {
  std::vector<bool> used(data_.size(), false);
  each([&](std::int64_t, std::size_t where) { used[where] = true; });
  for (std::size_t i = 0; i < data_.size(); ++i) {
    if (!used[i] && !std::isnan(data_[i])) return false;
  }
  return true;
}

std::vector<std::int32_t> random_tokens(std::int64_t n, std::int64_t vocabulary, const std::string& name) {
  std::vector<std::int32_t> tokens(at(n));
  for (std::int64_t i = 0; i < n; ++i) {
    tokens[at(i)] = static_cast<std::int32_t>(random_bits(3, hash_name(name), static_cast<std::uint64_t>(i)) %
                                              static_cast<std::uint64_t>(vocabulary));
  }
  return tokens;
}

void EachIsa::SetUp() {
  before_ = &cpu::loops();
  const cpu::Loops* wanted = cpu::loops_of(GetParam());
  if (wanted == nullptr) GTEST_SKIP() << "this processor lacks the instruction set";
  cpu::use_loops(*wanted);
}
void EachIsa::TearDown() {
  cpu::use_loops(*before_);
}

std::string isa_name(const ::testing::TestParamInfo<cpu::Isa>& info) {
  switch (info.param) {
    case cpu::Isa::baseline:
      return "baseline";
    case cpu::Isa::avx2:
      return "avx2";
    default:
      return "avx512";
  }
}

Threads::Threads(int count) : before_(omp_get_max_threads()) {
  omp_set_num_threads(count);
}
Threads::~Threads() {
  omp_set_num_threads(before_);
}

double dot(const Doubles& a, const Doubles& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += a[i] * b[i];
  return sum;
}

void expect_close(const Doubles& a, const Doubles& b, double tolerance, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  const double difference = relative_difference(a.data(), b.data(), static_cast<std::int64_t>(b.size()));
  EXPECT_TRUE(difference <= tolerance) << what << ": relative difference " << difference << " > " << tolerance;
}

void expect_gradient(const std::function<double(const Doubles&)>& loss, const Doubles& x, const Doubles& gradient,
                     double tolerance, const std::string& what) {
  ASSERT_EQ(x.size(), gradient.size()) << what;
  constexpr double h = 1e-5;
  const std::size_t step = std::max<std::size_t>(1, x.size() / 47);
  Doubles expected;
  Doubles found;
  Doubles moved = x;
  for (std::size_t i = 0; i < x.size(); i += step) {
    moved[i] = x[i] + h;
    const double above = loss(moved);
    moved[i] = x[i] - h;
    const double below = loss(moved);
    moved[i] = x[i];
    expected.push_back((above - below) / (2 * h));
    found.push_back(gradient[i]);
  }
  expect_close(found, expected, tolerance, what + ", element by element");

  // The sign of the gradient, half of the elements at random: the terms cannot cancel.
  Doubles direction(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double sign = gradient[i] < 0 ? -1.0 : 1.0;
    direction[i] = sign * random_uniform(11, hash_name(what), i);
  }
  Doubles forward = x;
  Doubles back = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    forward[i] += h * direction[i];
    back[i] -= h * direction[i];
  }
  const double slope = (loss(forward) - loss(back)) / (2 * h);
  expect_close({dot(gradient, direction)}, {slope}, tolerance, what + ", along a direction");
}

namespace reference {

Doubles linear(const Doubles& x, const Doubles& w, std::int64_t n, std::int64_t o, std::int64_t k) {
  Doubles y(at(n * o));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < o; ++j) {
      double sum = 0;
      for (std::int64_t c = 0; c < k; ++c) sum += x[at(i * k + c)] * w[at(j * k + c)];
      y[at(i * o + j)] = sum;
    }
  }
  return y;
}

Doubles rms_norm(const Doubles& x, const Doubles& w, double eps, std::int64_t n, std::int64_t d) {
  Doubles y(x.size());
  for (std::int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < d; ++j) sum += x[at(i * d + j)] * x[at(i * d + j)];
    const double rstd = 1 / std::sqrt(sum / static_cast<double>(d) + eps);
    for (std::int64_t j = 0; j < d; ++j) y[at(i * d + j)] = x[at(i * d + j)] * rstd * w[at(j)];
  }
  return y;
}

Doubles swiglu(const Doubles& gate_up, std::int64_t n, std::int64_t f) {
  Doubles y(at(n * f));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < f; ++j) {
      const double g = gate_up[at(i * 2 * f + j)];
      y[at(i * f + j)] = g / (1 + std::exp(-g)) * gate_up[at(i * 2 * f + f + j)];
    }
  }
  return y;
}

namespace {

// The scores of one query against the keys it sees, and where those begin.
struct Scores {
  std::int64_t first;
  Doubles values;
};
Scores scores_of(const Attention& a, const Doubles& q, const Doubles& k, std::int64_t b, std::int64_t j,
                 std::int64_t h) {
  const std::int64_t position = a.keys - a.queries + j;
  const std::int64_t key_head = h / (a.query_heads / a.key_heads);
  Scores s{a.window > 0 ? std::max<std::int64_t>(0, position - a.window + 1) : 0, {}};
  for (std::int64_t p = s.first; p <= position; ++p) {
    double sum = 0;
    for (std::int64_t d = 0; d < a.head_width; ++d) {
      sum += q[at(((b * a.queries + j) * a.query_heads + h) * a.head_width + d)] *
             k[at(((b * a.keys + p) * a.key_heads + key_head) * a.head_width + d)];
    }
    s.values.push_back(sum / std::sqrt(static_cast<double>(a.head_width)));
  }
  return s;
}
double log_sum(const Doubles& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double v : x) sum += std::exp(v - largest);
  return largest + std::log(sum);
}

}  // namespace

Doubles attention(const Attention& a, const Doubles& q, const Doubles& k, const Doubles& v) {
  Doubles out(q.size(), 0.0);
  for (std::int64_t b = 0; b < a.batch; ++b) {
    for (std::int64_t j = 0; j < a.queries; ++j) {
      for (std::int64_t h = 0; h < a.query_heads; ++h) {
        const Scores s = scores_of(a, q, k, b, j, h);
        const double lse = log_sum(s.values);
        const std::int64_t key_head = h / (a.query_heads / a.key_heads);
        for (std::size_t p = 0; p < s.values.size(); ++p) {
          const std::int64_t key = s.first + static_cast<std::int64_t>(p);
          const double weight = std::exp(s.values[p] - lse);
          for (std::int64_t d = 0; d < a.head_width; ++d) {
            out[at(((b * a.queries + j) * a.query_heads + h) * a.head_width + d)] +=
                weight * v[at(((b * a.keys + key) * a.key_heads + key_head) * a.head_width + d)];
          }
        }
      }
    }
  }
  return out;
}

AttentionGradients attention_backward(const Attention& a, const Doubles& q, const Doubles& k, const Doubles& v,
                                      const Doubles& dout) {
  AttentionGradients g{Doubles(q.size()), Doubles(k.size()), Doubles(v.size())};
  for (std::int64_t b = 0; b < a.batch; ++b) {
    for (std::int64_t j = 0; j < a.queries; ++j) {
      for (std::int64_t h = 0; h < a.query_heads; ++h) {
        const Scores s = scores_of(a, q, k, b, j, h);
        const double lse = log_sum(s.values);
        const std::int64_t key_head = h / (a.query_heads / a.key_heads);
        const std::int64_t row = ((b * a.queries + j) * a.query_heads + h) * a.head_width;
        Doubles p(s.values.size());
        Doubles dp(s.values.size());
        double mean = 0;
        for (std::size_t i = 0; i < p.size(); ++i) {
          const std::int64_t key =
              ((b * a.keys + s.first + static_cast<std::int64_t>(i)) * a.key_heads + key_head) * a.head_width;
          p[i] = std::exp(s.values[i] - lse);
          for (std::int64_t d = 0; d < a.head_width; ++d) {
            dp[i] += dout[at(row + d)] * v[at(key + d)];
            g.dv[at(key + d)] += p[i] * dout[at(row + d)];
          }
          mean += p[i] * dp[i];
        }
        for (std::size_t i = 0; i < p.size(); ++i) {
          const std::int64_t key =
              ((b * a.keys + s.first + static_cast<std::int64_t>(i)) * a.key_heads + key_head) * a.head_width;
          const double ds = p[i] * (dp[i] - mean) / std::sqrt(static_cast<double>(a.head_width));
          for (std::int64_t d = 0; d < a.head_width; ++d) {
            g.dq[at(row + d)] += ds * k[at(key + d)];
            g.dk[at(key + d)] += ds * q[at(row + d)];
          }
        }
      }
    }
  }
  return g;
}

Doubles log_sum_exp(const Attention& a, const Doubles& q, const Doubles& k) {
  Doubles lse;
  for (std::int64_t b = 0; b < a.batch; ++b) {
    for (std::int64_t h = 0; h < a.query_heads; ++h) {
      for (std::int64_t j = 0; j < a.queries; ++j) lse.push_back(log_sum(scores_of(a, q, k, b, j, h).values));
    }
  }
  return lse;
}

Doubles head_loss(const Doubles& y, const Doubles& w, const std::vector<std::int32_t>& targets,
                  const std::vector<std::uint8_t>& mask, std::int64_t n, std::int64_t d, std::int64_t v) {
  const Doubles logits = linear(y, w, n, v, d);
  Doubles loss(at(n), 0.0);
  for (std::int64_t i = 0; i < n; ++i) {
    if (!mask.empty() && mask[at(i)] == 0) continue;
    const Doubles row(logits.begin() + i * v, logits.begin() + (i + 1) * v);
    loss[at(i)] = log_sum(row) - row[at(targets[at(i)])];
  }
  return loss;
}

}  // namespace reference
}  // namespace photon::testing
