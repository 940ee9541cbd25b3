#include "report/svg_chart.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/error.hpp"

namespace photon {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(SvgChart, TicksAreRoundAndInside) {
  EXPECT_EQ(round_ticks(0, 1, 6), (std::vector<double>{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1}));
  for (const auto& [low, high] : std::vector<std::pair<double, double>>{
           {0, 383}, {-3.5, 2}, {0.93, 1}, {117.2, 301.9}, {1e-9, 3e-9}, {1e6, 5e7}, {0, 1e-3}}) {
    for (const int most : {4, 6, 8}) {
      const std::vector<double> ticks = round_ticks(low, high, most);
      EXPECT_GE(ticks.size(), 1U) << low << " " << high;
      EXPECT_LE(ticks.size(), static_cast<std::size_t>(most)) << low << " " << high;
      for (const double tick : ticks) {
        EXPECT_GE(tick, low - 1e-6 * (high - low));
        EXPECT_LE(tick, high + 1e-6 * (high - low));
      }
    }
  }
}

TEST(SvgChart, DrawsEverySeriesInOneColourAndEscapesNames) {
  const ChartPanel first{"a < b", "x & y", {{"one", {0, 1, 2}, {1, NAN, 3}}, {"two", {0, 1}, {5, 5}}}, 0.0, {}};
  const ChartPanel second{"flat", "", {{"two", {0}, {0}}}, {}, {}};
  const std::string svg = svg_chart("<script>", {first, second, {"empty", "", {}, {}, {}}});
  EXPECT_EQ(svg, svg_chart("<script>", {first, second, {"empty", "", {}, {}, {}}}));
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_NE(svg.find("x &amp; y"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  EXPECT_EQ(svg.find("href"), std::string::npos);
  EXPECT_EQ(count(svg, "<path d=\"M"), count(svg, "stroke=\"#"));
  EXPECT_EQ(count(svg, "stroke=\"#4269d0\""), 1U);
  EXPECT_EQ(count(svg, "stroke=\"#ff725c\""), 2U);
  EXPECT_EQ(count(svg, ">two</text>"), 1U);
  EXPECT_EQ(count(svg, "<text"), count(svg, "</text>"));
  // The line of the first series is broken where its value is missing: two moves and no line.
  EXPECT_EQ(svg.rfind("</svg>\n"), svg.size() - 7);
  EXPECT_THROW(svg_chart("", {{"", "", {{"torn", {1, 2}, {1}}}, {}, {}}}), ContractError);
}

}  // namespace
}  // namespace photon
