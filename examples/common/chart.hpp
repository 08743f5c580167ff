// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace common {

/// A line of a chart through points with their spread.
struct Series {
  struct Point {
    double x = 0, y = 0, low = 0, high = 0;
  };

  std::string name;
  std::vector<Point> points;
  bool connected = true;
  bool marked = true;  ///< points have dots; a line without stands behind the others
};

/// An axis: where numbers are written, and what.
struct Tick {
  double at = 0;
  std::string label;
};

/// A chart as SVG, readable on light and dark pages.
struct Chart {
  std::string title, x_title, y_title;
  std::vector<Tick> x_ticks;
  bool logarithmic_x = false, logarithmic_y = false;  ///< of numbers above 0
  std::vector<Series> series;
  struct Line {
    std::string name;
    double y = 0;
  };
  std::optional<Line> line;  ///< across the whole

  std::string svg() const;
};

}  // namespace common
