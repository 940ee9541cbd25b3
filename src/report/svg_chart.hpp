// Line charts as one self-contained SVG: no scripts, no fonts, nothing loaded; it reads on light and dark pages.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace photon {

struct ChartSeries {
  std::string name;       // series of one name have one colour in all panels
  std::vector<double> x;  // ascending
  std::vector<double> y;  // as many; what is not finite is left out and breaks the line
};

struct ChartPanel {
  std::string title;
  std::string x_label;
  std::vector<ChartSeries> series;
  std::optional<double> low{};  // the y axis, else from the values
  std::optional<double> high{};
};

// Panels side by side, two in a row, under a title and a legend. The text is a function of the arguments alone.
std::string svg_chart(const std::string& title, const std::vector<ChartPanel>& panels);

// At most `most` round numbers from low to high, evenly spaced by 1, 2 or 5 times a power of ten.
std::vector<double> round_ticks(double low, double high, int most);

}  // namespace photon
