#include "kernels/rope.hpp"

#include <cmath>
#include <numeric>

#include "reference.hpp"
#include "testing/compare.hpp"

namespace photon {
namespace {

using testing::Doubles;
using testing::Field;

class Rope : public testing::EachIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, Rope, testing::all_isas(), testing::isa_name);

TEST_P(Rope, MatchesTheReferenceAndTurnsBack) {
  for (const std::int64_t width : {2, 6, 16, 34, 64, 128}) {
    const std::int64_t half = width / 2;
    const double theta = 500.0;
    std::vector<std::int32_t> positions = {0, 1, 7, 100, 3999, 5};
    RopeTable table(width, theta);
    table.reserve(Space::host, 4000);
    const Field before = Field::random({6, 3, width}, "x", 2);
    Field x = Field::random({6, 3, width}, "x", 2);
    rope(Context{}, table, host_view(positions.data(), {6}), x.view(), Rotation::forward);
    const Doubles from = before.values();
    Doubles expected(from.size());
    for (std::size_t n = 0; n < 6; ++n) {
      for (std::size_t h = 0; h < 3; ++h) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(half); ++i) {
          const double angle =
              positions[n] * std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
          const std::size_t a = (n * 3 + h) * static_cast<std::size_t>(width) + i;
          const std::size_t b = a + static_cast<std::size_t>(half);
          expected[a] = from[a] * std::cos(angle) - from[b] * std::sin(angle);
          expected[b] = from[b] * std::cos(angle) + from[a] * std::sin(angle);
        }
      }
    }
    testing::expect_close(x.values(), expected, testing::float32_tolerance(2), fmt::format("width {}", width));
    rope(Context{}, table, host_view(positions.data(), {6}), x.view(), Rotation::backward);
    testing::expect_close(x.values(), from, testing::float32_tolerance(4), fmt::format("width {} back", width));
    EXPECT_TRUE(x.gaps_intact());
  }
}

TEST_P(Rope, TurnsWholeSequencesAsIfPositionsWereGiven) {
  const std::int64_t length = 37;
  RopeTable table(6, 10000.0);
  table.reserve(Space::host, length);
  Field x = Field::random({3, length, 5, 6}, "x", 2);
  Field y = Field::random({3, length, 5, 6}, "x", 2);
  std::vector<std::int32_t> positions(length);
  std::iota(positions.begin(), positions.end(), 0);
  for (const Rotation rotation : {Rotation::backward, Rotation::forward}) {
    rope(Context{}, table, x.view(), rotation);
    for (std::int64_t b = 0; b < 3; ++b) {
      rope(Context{}, table, host_view(positions.data(), {length}), y.view().slice(0, b, 1).merge(0), rotation);
    }
    EXPECT_EQ(x.floats(), y.floats());
  }
  EXPECT_TRUE(x.gaps_intact());
  Field longer = Field::random({1, table.positions() + 1, 1, 6}, "x");
  EXPECT_THROW(rope(Context{}, table, longer.view(), Rotation::forward), ContractError);
}

TEST_P(Rope, TheTableGrowsWithoutChanging) {
  RopeTable table(8, 10000.0);
  table.reserve(Space::host, 3);
  const std::vector<float> before(table.sines().host<float>(), table.sines().host<float>() + 12);
  table.reserve(Space::host, 2);
  EXPECT_EQ(table.positions(), 3);
  table.reserve(Space::host, 50);
  EXPECT_GE(table.positions(), 50);
  EXPECT_EQ(before, std::vector<float>(table.sines().host<float>(), table.sines().host<float>() + 12));
}

TEST_P(Rope, RefusesPositionsOutsideTheTable) {
  RopeTable table(4, 10000.0);
  table.reserve(Space::host, 3);
  Field x = Field::random({1, 1, 4}, "x");
  for (std::int32_t position : {3, -1}) {
    EXPECT_THROW(rope(Context{}, table, host_view(&position, {1}), x.view(), Rotation::forward), ContractError);
  }
  Field none = Field::poison({0, 1, 4});
  rope(Context{}, table, host_view(static_cast<const std::int32_t*>(nullptr), {0}), none.view(), Rotation::forward);
  RopeTable odd(3, 10000.0);
  EXPECT_THROW(odd.reserve(Space::host, 1), ContractError);
}

}  // namespace
}  // namespace photon
