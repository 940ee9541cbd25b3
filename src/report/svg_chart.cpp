#include "report/svg_chart.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/markup.hpp"
#include "support/error.hpp"

namespace photon {
namespace {

constexpr double panel_width = 460;
constexpr double panel_height = 260;
constexpr double left = 58;
constexpr double right = 14;
constexpr double top = 30;
constexpr double bottom = 42;
constexpr double head = 58;  // title and legend
constexpr const char* colors[] = {"#4269d0", "#ff725c", "#3ca951", "#a463f2", "#efb118", "#9c6b4e"};

struct Range {
  double low = 0;
  double high = 1;

  void take(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  double share(double value) const { return (value - low) / (high - low); }
};

Range x_range(const ChartPanel& panel) {
  Range range{INFINITY, -INFINITY};
  for (const ChartSeries& series : panel.series) {
    for (const double x : series.x) range.take(x);
  }
  if (!(range.low <= range.high)) return {0, 1};
  if (range.low == range.high) range.high = range.low + 1;
  return range;
}

Range y_range(const ChartPanel& panel) {
  Range range{INFINITY, -INFINITY};
  for (const ChartSeries& series : panel.series) {
    for (const double y : series.y) {
      if (std::isfinite(y)) range.take(y);
    }
  }
  if (!(range.low <= range.high)) range = {0, 1};
  if (range.low == range.high) range.high = range.low + (range.low == 0 ? 1 : std::abs(range.low));
  const double margin = (range.high - range.low) * 0.05;
  range.high += margin;
  range.low -= range.low >= 0 && range.low < margin ? range.low : margin;
  return {panel.low.value_or(range.low), panel.high.value_or(range.high)};
}

class Panel {
 public:
  Panel(const ChartPanel& panel, double x, double y, const std::vector<std::string>& names)
      : panel_(panel), x_(x), y_(y), xs_(x_range(panel)), ys_(y_range(panel)), names_(names) {}

  std::string draw() const {
    std::string out = fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-weight=\"600\">{}</text>\n", x_ + left, y_ + 18,
                                  escaped(panel_.title));
    const double end = x_ + panel_width - right;
    for (const double tick : round_ticks(ys_.low, ys_.high, 6)) {
      out += fmt::format(
          "<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#888\" stroke-opacity=\".35\"/>"
          "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
          x_ + left, at_y(tick), end, x_ + left - 6, at_y(tick) + 4, tick);
    }
    for (const double tick : round_ticks(xs_.low, xs_.high, 8)) {
      out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:g}</text>\n", at_x(tick),
                         y_ + panel_height - bottom + 16, tick);
    }
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", (x_ + left + end) / 2,
                       y_ + panel_height - 8, escaped(panel_.x_label));
    for (const ChartSeries& series : panel_.series) out += line(series);
    return out;
  }

 private:
  double at_x(double x) const { return x_ + left + xs_.share(x) * (panel_width - left - right); }
  double at_y(double y) const {
    return y_ + panel_height - bottom - std::clamp(ys_.share(y), 0.0, 1.0) * (panel_height - top - bottom);
  }

  std::string line(const ChartSeries& series) const {
    PHOTON_EXPECT(series.x.size() == series.y.size(), "a curve of {} x and {} y", series.x.size(), series.y.size());
    const auto place = std::find(names_.begin(), names_.end(), series.name) - names_.begin();
    const char* const color = colors[static_cast<std::size_t>(place) % std::size(colors)];
    std::string path;
    std::string dots;
    bool joined = false;
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      if (!std::isfinite(series.y[i])) {
        joined = false;
        continue;
      }
      path += fmt::format("{}{:.1f} {:.1f}", joined ? "L" : "M", at_x(series.x[i]), at_y(series.y[i]));
      joined = true;
      if (series.x.size() <= 40)
        dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2\" fill=\"{}\"/>", at_x(series.x[i]),
                            at_y(series.y[i]), color);
    }
    return fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>{}\n", path, color, dots);
  }

  const ChartPanel& panel_;
  double x_;
  double y_;
  Range xs_;
  Range ys_;
  const std::vector<std::string>& names_;
};

}  // namespace

std::vector<double> round_ticks(double low, double high, int most) {
  PHOTON_EXPECT(low < high && most >= 2, "ticks from {} to {}", low, high);
  double step = std::pow(10.0, std::floor(std::log10((high - low) / most)));
  for (const double factor : {2.0, 2.5, 2.0}) {  // 1, 2, 5, 10
    if ((high - low) / step <= most - 1) break;
    step *= factor;
  }
  std::vector<double> ticks;
  // Counted in steps: sums of them would drift.
  for (double count = std::ceil(low / step - 1e-9); count * step <= high + step * 1e-9; ++count)
    ticks.push_back(count == 0 ? 0 : count * step);
  return ticks;
}

std::string svg_chart(const std::string& title, const std::vector<ChartPanel>& panels) {
  std::vector<std::string> names;
  for (const ChartPanel& panel : panels) {
    for (const ChartSeries& series : panel.series) {
      if (std::find(names.begin(), names.end(), series.name) == names.end()) names.push_back(series.name);
    }
  }
  const std::size_t columns = panels.size() > 1 ? 2 : 1;
  const std::size_t lines = (panels.size() + columns - 1) / columns;
  const double width = panel_width * static_cast<double>(columns);
  const double height = head + panel_height * static_cast<double>(lines);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" "
      "font-size=\"12\" fill=\"#222\">\n<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"#fff\"/>\n"
      "<text x=\"{2:.1f}\" y=\"22\" font-size=\"15\" font-weight=\"600\">{3}</text>\n",
      width, height, left, escaped(title));
  double x = left;
  for (std::size_t i = 0; i < names.size(); ++i) {
    out += fmt::format(
        "<rect x=\"{:.1f}\" y=\"37\" width=\"14\" height=\"4\" fill=\"{}\"/><text x=\"{:.1f}\" y=\"44\">{}</text>\n", x,
        colors[i % std::size(colors)], x + 20, escaped(names[i]));
    x += 44 + 7.0 * static_cast<double>(names[i].size());
  }
  for (std::size_t i = 0; i < panels.size(); ++i) {
    out += Panel(panels[i], static_cast<double>(i % columns) * panel_width,
                 head + static_cast<double>(i / columns) * panel_height, names)
               .draw();
  }
  return out + "</svg>\n";
}

}  // namespace photon
