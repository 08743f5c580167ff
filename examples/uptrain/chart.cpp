// SPDX-License-Identifier: Apache-2.0
#include "chart.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <sstream>

namespace uptrain {
namespace {

constexpr const char* colours[] = {"#8c959f", "#d9822b", "#c9a227", "#2f81c4",
                                   "#2f9e6e", "#b8559c", "#7a6fd0"};

struct Interval {
  double low = std::numeric_limits<double>::infinity(), high = -low;

  void take_in(double x) {
    low = std::min(low, x);
    high = std::max(high, x);
  }
};

/// 1, 2 or 5 times a power of ten, so that there are 4 to 10 of them in `range`.
double step_for(double range) {
  const double power = std::pow(10, std::floor(std::log10(range / 4)));
  const double steps = range / 4 / power;
  return power * (steps >= 5 ? 5 : steps >= 2 ? 2 : 1);
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string{c};
  return result;
}

}  // namespace

std::string Chart::svg() const {
  constexpr double width = 640, height = 400, left = 62, right = 480, top = 40, bottom = 346;
  Interval xs, ys;
  for (const Series& each : series)
    for (const Series::Point& p : each.points) {
      xs.take_in(p.x);
      ys.take_in(p.low);
      ys.take_in(p.high);
    }
  for (const Tick& tick : x_ticks) xs.take_in(tick.at);
  if (line) ys.take_in(line->y);
  const double step = step_for(std::max(ys.high - ys.low, 1e-9));
  const double floor = std::floor(ys.low / step) * step, ceiling = std::ceil(ys.high / step) * step;
  const auto along = [&](double x) { return logarithmic_x ? std::log(x) : x; };
  const double span = std::max(along(xs.high) - along(xs.low), 1e-9), margin = 18;
  const auto at_x = [&](double x) {
    return left + margin + (right - left - 2 * margin) * (along(x) - along(xs.low)) / span;
  };
  const auto at_y = [&](double y) {
    return bottom - (bottom - top) * (y - floor) / std::max(ceiling - floor, 1e-9);
  };

  std::ostringstream out;
  out << std::fixed << std::setprecision(1);
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << width << " " << height << "\" width=\""
      << width << "\" height=\"" << height << "\" font-family=\"sans-serif\" font-size=\"12\">\n"
      << "<style>.ink{fill:#24292f}.faint{stroke:#8c959f;stroke-opacity:.3}.mha{stroke:#24292f}"
         "@media (prefers-color-scheme:dark){.ink{fill:#e6edf3}.mha{stroke:#e6edf3}}</style>\n";
  const auto text = [&](double x, double y, const char* anchor, const std::string& words,
                        const char* more = "") {
    out << "<text class=\"ink\" x=\"" << x << "\" y=\"" << y << "\" text-anchor=\"" << anchor << "\"" << more
        << ">" << escaped(words) << "</text>\n";
  };
  text(left, 22, "start", title, " font-size=\"14\"");
  text((left + right) / 2, height - 14, "middle", x_title);
  text(16, (top + bottom) / 2, "middle", y_title, " transform=\"rotate(-90 16 193)\"");
  for (double y = floor; y <= ceiling + step / 2; y += step) {
    out << "<line class=\"faint\" x1=\"" << left << "\" x2=\"" << right << "\" y1=\"" << at_y(y) << "\" y2=\""
        << at_y(y) << "\"/>\n";
    std::ostringstream label;
    label << std::fixed << std::setprecision(step < 0.1 ? 2 : 1) << y;
    text(left - 6, at_y(y) + 4, "end", label.str());
  }
  for (const Tick& tick : x_ticks) text(at_x(tick.at), bottom + 20, "middle", tick.label);

  double legend = top + 8;
  if (line) {
    out << "<line class=\"mha\" stroke-dasharray=\"6 4\" x1=\"" << left << "\" x2=\"" << right << "\" y1=\""
        << at_y(line->y) << "\" y2=\"" << at_y(line->y) << "\"/>\n"
        << "<line class=\"mha\" stroke-dasharray=\"6 4\" x1=\"" << right + 14 << "\" x2=\"" << right + 34
        << "\" y1=\"" << legend - 4 << "\" y2=\"" << legend - 4 << "\"/>\n";
    text(right + 40, legend, "start", line->name);
    legend += 20;
  }
  for (std::size_t i = 0; i < series.size(); ++i) {
    const Series& each = series[i];
    const char* const colour = colours[i % std::size(colours)];
    if (each.points.empty()) continue;
    out << "<g stroke=\"" << colour << "\" fill=\"" << colour << "\">\n";
    if (each.connected && each.points.size() > 1) {
      out << "<polyline fill=\"none\" stroke-width=\"1.8\" points=\"";
      for (const Series::Point& p : each.points) out << at_x(p.x) << "," << at_y(p.y) << " ";
      out << "\"/>\n";
    }
    for (const Series::Point& p : each.points)
      out << "<line x1=\"" << at_x(p.x) << "\" x2=\"" << at_x(p.x) << "\" y1=\"" << at_y(p.low) << "\" y2=\""
          << at_y(p.high) << "\"/><circle cx=\"" << at_x(p.x) << "\" cy=\"" << at_y(p.y) << "\" r=\"3\"/>\n";
    out << "<circle cx=\"" << right + 24 << "\" cy=\"" << legend - 4 << "\" r=\"3\"/></g>\n";
    text(right + 40, legend, "start", each.name);
    legend += 20;
  }
  out << "</svg>\n";
  return out.str();
}

}  // namespace uptrain
