#include "kernels/attention.hpp"

#include <cmath>
#include <limits>

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::expect_close;
using testing::Field;
using testing::float32_tolerance;

class StreamAttention : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, StreamAttention, testing::all_isas(), testing::isa_name);

struct Case {
  std::int64_t batch, length, query_heads, key_heads, head_width, window;
};
// Lengths around the tiles of 32 queries and 64 keys; windows of one, inside a tile, a tile and past it.
constexpr Case cases[] = {{1, 1, 1, 1, 1, 0},    {2, 7, 2, 1, 5, 0},     {1, 33, 4, 2, 16, 0},  {2, 65, 2, 2, 20, 0},
                          {1, 130, 3, 1, 64, 0}, {1, 97, 2, 2, 8, 1},    {1, 131, 2, 1, 17, 5}, {1, 150, 2, 2, 16, 64},
                          {1, 200, 1, 1, 4, 65}, {1, 50, 1, 1, 80, 1000}};

std::string name_of_case(const Case& c) {
  return fmt::format("B {} N {} heads {}/{} width {} window {}", c.batch, c.length, c.query_heads, c.key_heads,
                     c.head_width, c.window);
}

testing::reference::Attention reference_of(const Case& c) {
  return {c.batch, c.length, c.length, c.query_heads, c.key_heads, c.head_width, c.window};
}

struct Tensors {
  Field q, k, v;
};
Tensors inputs(const Case& c, std::int64_t gap) {
  return {Field::random({c.batch, c.length, c.query_heads, c.head_width}, "q", gap),
          Field::random({c.batch, c.length, c.key_heads, c.head_width}, "k", 2 * gap),
          Field::random({c.batch, c.length, c.key_heads, c.head_width}, "v", gap)};
}

TEST_P(StreamAttention, MatchesTheReference) {
  for (const Case& c : cases) {
    const std::string what = name_of_case(c);
    const Tensors t = inputs(c, 3);
    Field out = Field::poison({c.batch, c.length, c.query_heads, c.head_width}, 1);
    Field lse = Field::poison({c.batch, c.query_heads, c.length});
    stream_attention_forward(Context{}, t.q.view(), t.k.view(), t.v.view(), c.window, out.view(), lse.view());
    const auto a = reference_of(c);
    const double tolerance = 4 * float32_tolerance(c.head_width);
    expect_close(out.values(), testing::reference::attention(a, t.q.values(), t.k.values(), t.v.values()), tolerance,
                 what);
    expect_close(lse.values(), testing::reference::log_sum_exp(a, t.q.values(), t.k.values()), tolerance,
                 what + " lse");
    EXPECT_TRUE(out.gaps_intact()) << what;
    Field again = Field::poison({c.batch, c.length, c.query_heads, c.head_width});
    stream_attention_forward(Context{}, t.q.view(), t.k.view(), t.v.view(), c.window, again.view(), {});
    EXPECT_EQ(again.floats(), out.floats()) << what << ": lse left out";
  }
}

TEST_P(StreamAttention, GradientsMatchTheReference) {
  for (const Case& c : cases) {
    const std::string what = name_of_case(c);
    const Tensors t = inputs(c, 3);
    const Field dout = Field::random({c.batch, c.length, c.query_heads, c.head_width}, "dout", 2);
    Field out = Field::poison({c.batch, c.length, c.query_heads, c.head_width}, 1);
    Field lse = Field::poison({c.batch, c.query_heads, c.length});
    stream_attention_forward(Context{}, t.q.view(), t.k.view(), t.v.view(), c.window, out.view(), lse.view());
    Field dq = Field::poison({c.batch, c.length, c.query_heads, c.head_width}, 5);
    Field dk = Field::poison({c.batch, c.length, c.key_heads, c.head_width}, 4);
    Field dv = Field::poison({c.batch, c.length, c.key_heads, c.head_width}, 3);
    stream_attention_backward(Context{}, t.q.view(), t.k.view(), t.v.view(), out.view(), lse.view(), dout.view(),
                              c.window, dq.view(), dk.view(), dv.view());
    EXPECT_TRUE(dq.gaps_intact() && dk.gaps_intact() && dv.gaps_intact()) << what;

    const auto expected = testing::reference::attention_backward(reference_of(c), t.q.values(), t.k.values(),
                                                                 t.v.values(), dout.values());
    expect_close(dv.values(), expected.dv, 2e-5, what + " dv");
    if (c.length == 1 || c.window == 1) {  // a softmax over one key has no gradient but rounding
      for (const double d : dq.values()) EXPECT_NEAR(d, 0, 1e-5) << what;
      for (const double d : dk.values()) EXPECT_NEAR(d, 0, 1e-5) << what;
    } else {
      expect_close(dq.values(), expected.dq, 2e-5, what + " dq");
      expect_close(dk.values(), expected.dk, 2e-5, what + " dk");
    }
    if (c.head_width % 2 != 0) continue;
    // Turned back, when the inputs have been turned.
    RopeTable table(c.head_width, 100.0);
    table.reserve(Space::host, c.length);
    Field turned_q = Field::poison({c.batch, c.length, c.query_heads, c.head_width}, 5);
    Field turned_k = Field::poison({c.batch, c.length, c.key_heads, c.head_width}, 4);
    stream_attention_backward(Context{}, t.q.view(), t.k.view(), t.v.view(), out.view(), lse.view(), dout.view(),
                              c.window, turned_q.view(), turned_k.view(), dv.view(), &table);
    rope(Context{}, table, dq.view(), Rotation::backward);
    rope(Context{}, table, dk.view(), Rotation::backward);
    EXPECT_EQ(turned_q.floats(), dq.floats()) << what;
    EXPECT_EQ(turned_k.floats(), dk.floats()) << what;
    EXPECT_TRUE(turned_q.gaps_intact() && turned_k.gaps_intact()) << what;
  }
}

TEST(AttentionReference, GradientsMatchFiniteDifferences) {
  for (const auto& a : {testing::reference::Attention{2, 7, 7, 2, 1, 5}, {1, 9, 9, 2, 2, 3, 4}, {1, 3, 7, 3, 1, 4}}) {
    const Doubles q = Field::random({a.batch, a.queries, a.query_heads, a.head_width}, "q").values();
    const Doubles k = Field::random({a.batch, a.keys, a.key_heads, a.head_width}, "k").values();
    const Doubles v = Field::random({a.batch, a.keys, a.key_heads, a.head_width}, "v").values();
    const Doubles g = Field::random({a.batch, a.queries, a.query_heads, a.head_width}, "dout").values();
    const auto found = testing::reference::attention_backward(a, q, k, v, g);
    const auto loss = [&](const Doubles& x, const Doubles& y, const Doubles& z) {
      return testing::dot(testing::reference::attention(a, x, y, z), g);
    };
    testing::expect_gradient([&](const Doubles& x) { return loss(x, k, v); }, q, found.dq, 1e-7, "dq");
    testing::expect_gradient([&](const Doubles& x) { return loss(q, x, v); }, k, found.dk, 1e-7, "dk");
    testing::expect_gradient([&](const Doubles& x) { return loss(q, k, x); }, v, found.dv, 1e-7, "dv");
  }
}

TEST_P(StreamAttention, BitsDoNotDependOnThreadsOrOnLaterPositions) {
  const Case c{2, 150, 4, 2, 24, 40};
  const Tensors t = inputs(c, 0);
  const Field dout = Field::random({2, 150, 4, 24}, "dout");
  std::vector<std::vector<float>> results[4];
  for (const int threads : {1, 2, 3}) {
    const testing::Threads scope(threads);
    Field out = Field::poison({2, 150, 4, 24});
    Field lse = Field::poison({2, 4, 150});
    Field dq = Field::poison({2, 150, 4, 24});
    Field dk = Field::poison({2, 150, 2, 24});
    Field dv = Field::poison({2, 150, 2, 24});
    stream_attention_forward(Context{}, t.q.view(), t.k.view(), t.v.view(), 40, out.view(), lse.view());
    stream_attention_backward(Context{}, t.q.view(), t.k.view(), t.v.view(), out.view(), lse.view(), dout.view(), 40,
                              dq.view(), dk.view(), dv.view());
    int i = 0;
    for (const Field* f : {&out, &dq, &dk, &dv}) results[i++].push_back(f->floats());
    if (threads > 1) continue;
    // The first positions alone, and the second sequence alone.
    for (const std::int64_t length : {1, 31, 32, 33, 64, 65, 100}) {
      Field part = Field::poison({1, length, 4, 24});
      const auto cut = [&](const Field& f) { return f.view().slice(0, 1, 1).slice(1, 0, length); };
      stream_attention_forward(Context{}, cut(t.q), cut(t.k), cut(t.v), 40, part.view(), {});
      const std::vector<float> whole = out.floats();
      const std::vector<float> found = part.floats();
      EXPECT_TRUE(std::equal(found.begin(), found.end(), whole.begin() + 150 * 4 * 24)) << length << " positions";
    }
  }
  for (const auto& r : results) {
    EXPECT_EQ(r[0], r[1]);
    EXPECT_EQ(r[0], r[2]);
  }
}

TEST_P(StreamAttention, SurvivesExtremeScores) {
  // Scores of +-10^4: the largest must be subtracted before exponentiating, tile by tile.
  Field q = Field::filled({1, 140, 1, 4}, 100.0F);
  Field k = Field::random({1, 140, 1, 4}, "k", 0, 50.0);
  const Field v = Field::random({1, 140, 1, 4}, "v");
  Field out = Field::poison({1, 140, 1, 4});
  stream_attention_forward(Context{}, q.view(), k.view(), v.view(), 0, out.view(), {});
  const testing::reference::Attention a{1, 140, 140, 1, 1, 4};
  expect_close(out.values(), testing::reference::attention(a, q.values(), k.values(), v.values()), 1e-3, "out");

  // NaN in a key reaches the rows that see it and no other.
  k.view().host<float>()[70 * 4] = std::numeric_limits<float>::quiet_NaN();
  stream_attention_forward(Context{}, q.view(), k.view(), v.view(), 10, out.view(), {});
  const Doubles found = out.values();
  for (std::size_t i = 0; i < 140; ++i) EXPECT_EQ(std::isnan(found[4 * i]), i >= 70 && i < 80) << i;
}

TEST_P(StreamAttention, AcceptsEmptySizes) {
  Field none = Field::poison({0, 5, 2, 4});
  Field lse = Field::poison({0, 2, 5});
  stream_attention_forward(Context{}, none.view(), none.view(), none.view(), 0, none.view(), lse.view());
  stream_attention_backward(Context{}, none.view(), none.view(), none.view(), none.view(), lse.view(), none.view(), 0,
                            none.view(), none.view(), none.view());
  Field wrong = Field::poison({1, 5, 3, 4});
  EXPECT_THROW(stream_attention_forward(Context{}, none.view(), none.view(), none.view(), 0, wrong.view(), {}),
               ContractError);
}

}  // namespace
}  // namespace photon
