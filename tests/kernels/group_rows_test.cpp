#include "kernels/group_rows.hpp"

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::Field;

class GroupRows : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, GroupRows, testing::all_isas(), testing::isa_name);

struct Case {
  std::int64_t batch, groups, chunk, prefix, lookback, width;
};
// Lookback within one group, over several, and beyond the sequence's start; chunks of one unit (no content at all).
constexpr Case cases[] = {{1, 1, 1, 1, 0, 1},  {2, 3, 4, 4, 0, 17},  {2, 5, 4, 2, 3, 8},  {1, 4, 3, 1, 7, 5},
                          {3, 2, 1, 2, 2, 33}, {2, 40, 4, 4, 4, 40}, {2, 3, 5, 1, 100, 3}};

std::int64_t positions_of(const Case& c) {
  return c.prefix + c.lookback + c.chunk - 1;
}

// Where row s of group g of sequence b comes from: an index into u (prefix) or content, or nothing (-1).
struct Source {
  bool prefix;
  std::int64_t row;
};
Source source_of(const Case& c, std::int64_t b, std::int64_t g, std::int64_t s) {
  if (s < c.prefix) return {true, (b * c.groups + g) * c.prefix + s};
  const std::int64_t unit = g * c.chunk - c.lookback + s - c.prefix;
  return {false, unit < 0 ? -1 : b * c.groups * c.chunk + unit};
}

template <class Visit>
void each_row(const Case& c, Visit visit) {
  std::int64_t row = 0;
  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t g = 0; g < c.groups; ++g) {
      for (std::int64_t s = 0; s < positions_of(c); ++s) visit(row++, source_of(c, b, g, s));
    }
  }
}

TEST_P(GroupRows, LaysOutTheDecodersSequences) {
  for (const Case& c : cases) {
    const Field u = Field::random({c.batch * c.groups, c.prefix, c.width}, "u");
    const Field content = Field::random({c.batch, c.groups * c.chunk, c.width}, "content");
    Field out = Field::poison({c.batch * c.groups, positions_of(c), c.width});
    decoder_rows_forward(Context{}, u.view(), content.view(), c.lookback, out.view());
    const std::vector<float> found = out.floats();
    const std::vector<float> us = u.floats();
    const std::vector<float> units = content.floats();
    each_row(c, [&](std::int64_t row, const Source& from) {
      for (std::int64_t d = 0; d < c.width; ++d) {
        float expected = 0;
        if (from.row >= 0) expected = (from.prefix ? us : units)[static_cast<std::size_t>(from.row * c.width + d)];
        ASSERT_EQ(found[static_cast<std::size_t>(row * c.width + d)], expected) << "row " << row;
      }
    });
  }
}

TEST_P(GroupRows, GradientsReturnWhereTheRowsCameFrom) {
  for (const Case& c : cases) {
    const Field dout = Field::random({c.batch * c.groups, positions_of(c), c.width}, "dout");
    const Doubles g = dout.values();
    Doubles expected_u(static_cast<std::size_t>(c.batch * c.groups * c.prefix * c.width), 0.0);
    Doubles expected_content(static_cast<std::size_t>(c.batch * c.groups * c.chunk * c.width), 1.0);
    each_row(c, [&](std::int64_t row, const Source& from) {
      if (from.row < 0) return;
      for (std::int64_t d = 0; d < c.width; ++d) {
        (from.prefix ? expected_u : expected_content)[static_cast<std::size_t>(from.row * c.width + d)] +=
            g[static_cast<std::size_t>(row * c.width + d)];
      }
    });
    std::vector<std::vector<float>> gradients;
    for (const int threads : {1, 2}) {
      const testing::Threads scope(threads);
      Field du = Field::poison({c.batch * c.groups, c.prefix, c.width});
      Field dcontent = Field::filled({c.batch, c.groups * c.chunk, c.width}, 1);
      decoder_rows_backward(Context{}, dout.view(), c.lookback, du.view(), dcontent.view());
      EXPECT_EQ(du.values(), expected_u);
      testing::expect_close(dcontent.values(), expected_content, 1e-6, "dcontent");
      gradients.push_back(dcontent.floats());
      Field du_alone = Field::poison({c.batch * c.groups, c.prefix, c.width});
      decoder_rows_backward(Context{}, dout.view(), c.lookback, du_alone.view(), {});
      EXPECT_EQ(du_alone.floats(), du.floats());
    }
    EXPECT_EQ(gradients[0], gradients[1]);
  }
}

TEST_P(GroupRows, ShiftsByOneUnit) {
  for (const auto& [batch, units, width] :
       {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 1}, {3, 1, 5}, {2, 6, 17}}) {
    const Field x = Field::random({batch, units, width}, "x");
    const Field start = Field::random({width}, "start");
    Field c = Field::poison({batch, units, width});
    shift_forward(Context{}, x.view(), start.view(), c.view());
    const Field dc = Field::random({batch, units, width}, "dc");
    Field dx = Field::filled({batch, units, width}, 1);
    Field dstart = Field::filled({width}, 1);
    shift_backward(Context{}, dc.view(), dx.view(), dstart.view());
    std::vector<float> expected_dstart(static_cast<std::size_t>(width), 1.0F);
    const auto at = [w = width, u = units](const std::vector<float>& v, std::int64_t b, std::int64_t m,
                                           std::int64_t d) { return v[static_cast<std::size_t>((b * u + m) * w + d)]; };
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t d = 0; d < width; ++d) {
        expected_dstart[static_cast<std::size_t>(d)] += at(dc.floats(), b, 0, d);
        for (std::int64_t m = 0; m < units; ++m) {
          const float before = m == 0 ? start.floats()[static_cast<std::size_t>(d)] : at(x.floats(), b, m - 1, d);
          EXPECT_EQ(at(c.floats(), b, m, d), before);
          EXPECT_EQ(at(dx.floats(), b, m, d), m + 1 < units ? 1 + at(dc.floats(), b, m + 1, d) : 1.0F);
        }
      }
    }
    EXPECT_EQ(dstart.floats(), expected_dstart);
  }
}

TEST_P(GroupRows, AcceptsNoGroupsAndRefusesWrongShapes) {
  Field u = Field::poison({0, 2, 3});
  Field content = Field::poison({0, 8, 3});
  Field out = Field::poison({0, 5, 3});
  decoder_rows_backward(Context{}, out.view(), 0, u.view(), {});
  Field none = Field::poison({0, 4, 3});
  const Field start = Field::filled({3}, 1);
  shift_forward(Context{}, none.view(), start.view(), none.view());
  Field u1 = Field::filled({2, 2, 3}, 1);
  Field content1 = Field::filled({1, 7, 3}, 1);
  Field out1 = Field::poison({2, 5, 3});
  EXPECT_THROW(decoder_rows_forward(Context{}, u1.view(), content1.view(), 0, out1.view()), ContractError);
}

}  // namespace
}  // namespace photon
