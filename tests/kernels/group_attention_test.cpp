#include "kernels/group_attention.hpp"

#include <cmath>

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::expect_close;
using testing::Field;
using testing::float32_tolerance;

class GroupAttention : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, GroupAttention, testing::all_isas(), testing::isa_name);

struct Case {
  std::int64_t groups, positions, queries, query_heads, key_heads, head_width;
};
constexpr Case cases[] = {{1, 1, 1, 1, 1, 1},    {5, 7, 7, 2, 2, 16},   {3, 7, 4, 4, 2, 64}, {2, 11, 1, 2, 1, 20},
                          {2, 17, 17, 3, 1, 17}, {2, 64, 64, 1, 1, 33}, {3, 33, 5, 2, 2, 4}, {40, 3, 3, 1, 1, 8}};

std::string name_of_case(const Case& c) {
  return fmt::format("G {} S {} Sq {} heads {}/{} width {}", c.groups, c.positions, c.queries, c.query_heads,
                     c.key_heads, c.head_width);
}

TEST_P(GroupAttention, MatchesTheReference) {
  for (const Case& c : cases) {
    const Field q = Field::random({c.groups, c.queries, c.query_heads, c.head_width}, "q", 1);
    const Field k = Field::random({c.groups, c.positions, c.key_heads, c.head_width}, "k", 2);
    const Field v = Field::random({c.groups, c.positions, c.key_heads, c.head_width}, "v", 3);
    Field out = Field::poison({c.groups, c.queries, c.query_heads, c.head_width}, 4);
    group_attention_forward(Context{}, q.view(), k.view(), v.view(), out.view());
    const testing::reference::Attention a{c.groups, c.queries, c.positions, c.query_heads, c.key_heads, c.head_width};
    expect_close(out.values(), testing::reference::attention(a, q.values(), k.values(), v.values()),
                 4 * float32_tolerance(c.head_width), name_of_case(c));
    EXPECT_TRUE(out.gaps_intact());
  }
}

TEST_P(GroupAttention, GradientsMatchTheReference) {
  for (const Case& c : cases) {
    const std::string what = name_of_case(c);
    const Field q = Field::random({c.groups, c.queries, c.query_heads, c.head_width}, "q", 1);
    const Field k = Field::random({c.groups, c.positions, c.key_heads, c.head_width}, "k", 2);
    const Field v = Field::random({c.groups, c.positions, c.key_heads, c.head_width}, "v", 3);
    const Field dout = Field::random({c.groups, c.queries, c.query_heads, c.head_width}, "dout", 3);
    Field dq = Field::poison({c.groups, c.queries, c.query_heads, c.head_width}, 1);
    Field dk = Field::poison({c.groups, c.positions, c.key_heads, c.head_width}, 2);
    Field dv = Field::poison({c.groups, c.positions, c.key_heads, c.head_width}, 3);
    group_attention_backward(Context{}, q.view(), k.view(), v.view(), dout.view(), dq.view(), dk.view(), dv.view());
    EXPECT_TRUE(dq.gaps_intact() && dk.gaps_intact() && dv.gaps_intact()) << what;
    const testing::reference::Attention a{c.groups, c.queries, c.positions, c.query_heads, c.key_heads, c.head_width};
    const auto expected = testing::reference::attention_backward(a, q.values(), k.values(), v.values(), dout.values());
    expect_close(dv.values(), expected.dv, 2e-5, what + " dv");
    if (c.positions == 1) {
      EXPECT_NEAR(dq.values()[0], 0, 1e-6);
      EXPECT_NEAR(dk.values()[0], 0, 1e-6);
    } else {
      expect_close(dq.values(), expected.dq, 2e-5, what + " dq");
      expect_close(dk.values(), expected.dk, 2e-5, what + " dk");
    }
  }
}

// x [G, count, H, hd], the last `count` of `positions`, each head turned by its position's angles (or back) in double.
Doubles turned(Doubles x, std::int64_t count, std::int64_t positions, std::int64_t heads, std::int64_t width,
               double theta, double sign) {
  const std::int64_t half = width / 2;
  const auto rows = static_cast<std::int64_t>(x.size()) / width;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t position = positions - count + row / heads % count;
    for (std::int64_t i = 0; i < half; ++i) {
      const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
      const double angle = sign * static_cast<double>(position) * frequency;
      double& low = x[static_cast<std::size_t>(row * width + i)];
      double& high = x[static_cast<std::size_t>(row * width + half + i)];
      const double before = low;
      low = before * std::cos(angle) - high * std::sin(angle);
      high = high * std::cos(angle) + before * std::sin(angle);
    }
  }
  return x;
}

TEST_P(GroupAttention, RotatesWhatItReads) {
  const double theta = 100.0;
  for (const Case& c : {Case{5, 7, 7, 2, 2, 16}, Case{3, 7, 4, 4, 2, 64}, Case{2, 11, 1, 2, 1, 20},
                        Case{2, 64, 64, 1, 1, 34}, Case{2, 33, 5, 2, 2, 4}}) {
    const std::string what = name_of_case(c);
    RopeTable table(c.head_width, theta);
    table.reserve(Space::host, c.positions);
    const Field q = Field::random({c.groups, c.queries, c.query_heads, c.head_width}, "q", 1);
    const Field k = Field::random({c.groups, c.positions, c.key_heads, c.head_width}, "k", 2);
    const Field v = Field::random({c.groups, c.positions, c.key_heads, c.head_width}, "v", 3);
    const Field dout = Field::random({c.groups, c.queries, c.query_heads, c.head_width}, "dout", 3);
    Field out = Field::poison({c.groups, c.queries, c.query_heads, c.head_width}, 4);
    Field dq = Field::poison({c.groups, c.queries, c.query_heads, c.head_width}, 1);
    Field dk = Field::poison({c.groups, c.positions, c.key_heads, c.head_width}, 2);
    Field dv = Field::poison({c.groups, c.positions, c.key_heads, c.head_width}, 3);
    const Doubles before = q.values();
    group_attention_forward(Context{}, q.view(), k.view(), v.view(), out.view(), &table);
    group_attention_backward(Context{}, q.view(), k.view(), v.view(), dout.view(), dq.view(), dk.view(), dv.view(),
                             &table);
    EXPECT_EQ(q.values(), before) << what;
    EXPECT_TRUE(out.gaps_intact() && dq.gaps_intact() && dk.gaps_intact() && dv.gaps_intact()) << what;

    const auto queries = [&](const Doubles& x, double sign) {
      return turned(x, c.queries, c.positions, c.query_heads, c.head_width, theta, sign);
    };
    const auto keys = [&](const Doubles& x, double sign) {
      return turned(x, c.positions, c.positions, c.key_heads, c.head_width, theta, sign);
    };
    const testing::reference::Attention a{c.groups, c.queries, c.positions, c.query_heads, c.key_heads, c.head_width};
    const Doubles rotated_q = queries(q.values(), 1);
    const Doubles rotated_k = keys(k.values(), 1);
    expect_close(out.values(), testing::reference::attention(a, rotated_q, rotated_k, v.values()),
                 4 * float32_tolerance(c.head_width), what);
    const auto expected = testing::reference::attention_backward(a, rotated_q, rotated_k, v.values(), dout.values());
    expect_close(dq.values(), queries(expected.dq, -1), 2e-5, what + " dq");
    expect_close(dk.values(), keys(expected.dk, -1), 2e-5, what + " dk");
    expect_close(dv.values(), expected.dv, 2e-5, what + " dv");
  }
}

TEST_P(GroupAttention, RefusesAShortRopeTable) {
  const Field q = Field::random({2, 5, 1, 8}, "q");
  Field out = Field::poison({2, 5, 1, 8});
  RopeTable table(8, 100.0);
  table.reserve(Space::host, 4);
  EXPECT_THROW(group_attention_forward(Context{}, q.view(), q.view(), q.view(), out.view(), &table), ContractError);
}

TEST_P(GroupAttention, AGroupsBitsDependOnNothingElse) {
  const Field q = Field::random({37, 7, 4, 16}, "q");
  const Field k = Field::random({37, 7, 2, 16}, "k");
  const Field v = Field::random({37, 7, 2, 16}, "v");
  Field all = Field::poison({37, 7, 4, 16});
  group_attention_forward(Context{}, q.view(), k.view(), v.view(), all.view());
  for (const int threads : {1, 2}) {
    const testing::Threads scope(threads);
    for (const std::int64_t count : {1, 5, 37}) {
      Field part = Field::poison({count, 7, 4, 16});
      const std::int64_t first = 37 - count;
      group_attention_forward(Context{}, q.view().slice(0, first, count), k.view().slice(0, first, count),
                              v.view().slice(0, first, count), part.view());
      const std::vector<float> whole = all.floats();
      const std::vector<float> found = part.floats();
      EXPECT_TRUE(std::equal(found.begin(), found.end(), whole.begin() + first * 7 * 4 * 16));
    }
  }
}

TEST_P(GroupAttention, AcceptsEmptySizesAndRefusesLongGroups) {
  Field none = Field::poison({0, 7, 2, 8});
  group_attention_forward(Context{}, none.view(), none.view(), none.view(), none.view());
  group_attention_backward(Context{}, none.view(), none.view(), none.view(), none.view(), none.view(), none.view(),
                           none.view());
  Field longer = Field::poison({1, 65, 1, 4});
  EXPECT_THROW(group_attention_forward(Context{}, longer.view(), longer.view(), longer.view(), longer.view()),
               ContractError);
  // No queries: the keys' gradients are zero.
  const Field k = Field::random({2, 3, 1, 4}, "k");
  Field no_queries = Field::poison({2, 0, 1, 4});
  Field dk = Field::poison({2, 3, 1, 4});
  Field dv = Field::poison({2, 3, 1, 4});
  group_attention_backward(Context{}, no_queries.view(), k.view(), k.view(), no_queries.view(), no_queries.view(),
                           dk.view(), dv.view());
  EXPECT_EQ(dk.values(), Doubles(24, 0.0));
  EXPECT_EQ(dv.values(), Doubles(24, 0.0));
}

}  // namespace
}  // namespace photon
