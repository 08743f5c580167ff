// SPDX-License-Identifier: Apache-2.0
#include "chart.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <sstream>

namespace common {
namespace {

constexpr const char* colours[] = {"#8c959f", "#d9822b", "#c9a227", "#2f81c4",
                                   "#8a5a44", "#2f9e6e", "#b8559c", "#7a6fd0"};

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

/// Where numbers are written along the axis of `range`, the ends included.
std::vector<double> ticks(const Interval& range, bool logarithmic) {
  std::vector<double> at;
  if (logarithmic) {  // 1, 2 and 5 times powers of ten
    const auto number = [](int i) {
      constexpr double digit[] = {1, 2, 5};
      const int power = i >= 0 ? i / 3 : (i - 2) / 3;
      return digit[i - 3 * power] * std::pow(10, power);
    };
    int i = static_cast<int>(std::floor(3 * std::log10(range.low))) - 3;
    while (number(i + 1) <= range.low) ++i;
    do at.push_back(number(i));
    while (number(i++) < range.high);
    return at;
  }
  const double step = step_for(std::max(range.high - range.low, 1e-9));
  const double floor = std::floor(range.low / step) * step, ceiling = std::ceil(range.high / step) * step;
  for (double y = floor; y <= ceiling + step / 2; y += step) at.push_back(y);
  return at;
}

std::string fixed(double x, int decimals) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(decimals) << x;
  return out.str();
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string{c};
  return result;
}

}  // namespace

std::string Chart::svg() const {
  constexpr double width = 660, height = 400, left = 62, right = 480, top = 40, bottom = 346;
  Interval xs, ys;
  for (const Series& each : series)
    for (const Series::Point& p : each.points) {
      xs.take_in(p.x);
      ys.take_in(p.low);
      ys.take_in(p.high);
    }
  for (const Tick& tick : x_ticks) xs.take_in(tick.at);
  if (line) ys.take_in(line->y);
  const std::vector<double> y_ticks = ticks(ys, logarithmic_y);
  const auto up = [&](double y) { return logarithmic_y ? std::log(y) : y; };
  const auto decimals = [&](double y) {
    if (logarithmic_y) return y < 1 ? std::max(1, static_cast<int>(std::ceil(-std::log10(y)))) : 0;
    return step_for(std::max(ys.high - ys.low, 1e-9)) < 0.1 ? 2 : 1;
  };
  const double floor = up(y_ticks.front()), ceiling = up(y_ticks.back());
  const auto along = [&](double x) { return logarithmic_x ? std::log(x) : x; };
  const double span = std::max(along(xs.high) - along(xs.low), 1e-9), margin = 18;
  const auto at_x = [&](double x) {
    return left + margin + (right - left - 2 * margin) * (along(x) - along(xs.low)) / span;
  };
  const auto at_y = [&](double y) {
    return bottom - (bottom - top) * (up(y) - floor) / std::max(ceiling - floor, 1e-9);
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
  for (const double y : y_ticks) {
    out << "<line class=\"faint\" x1=\"" << left << "\" x2=\"" << right << "\" y1=\"" << at_y(y) << "\" y2=\""
        << at_y(y) << "\"/>\n";
    text(left - 6, at_y(y) + 4, "end", fixed(y, decimals(y)));
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
  std::size_t next_colour = 0;
  const auto draw = [&](const Series& each, const char* colour) {
    if (each.points.empty()) return;
    out << "<g stroke=\"" << colour << "\" fill=\"" << colour << "\">\n";
    if (each.connected && each.points.size() > 1) {
      out << "<polyline fill=\"none\" stroke-width=\"1.8\" points=\"";
      for (const Series::Point& p : each.points) out << at_x(p.x) << "," << at_y(p.y) << " ";
      out << "\"/>\n";
    }
    if (each.marked) {
      for (const Series::Point& p : each.points)
        out << "<line x1=\"" << at_x(p.x) << "\" x2=\"" << at_x(p.x) << "\" y1=\"" << at_y(p.low)
            << "\" y2=\"" << at_y(p.high) << "\"/><circle cx=\"" << at_x(p.x) << "\" cy=\"" << at_y(p.y)
            << "\" r=\"3\"/>\n";
      out << "<circle cx=\"" << right + 24 << "\" cy=\"" << legend - 4 << "\" r=\"3\"/></g>\n";
    } else {
      out << "<line stroke-width=\"1.8\" x1=\"" << right + 14 << "\" x2=\"" << right + 34 << "\" y1=\""
          << legend - 4 << "\" y2=\"" << legend - 4 << "\"/></g>\n";
    }
    text(right + 40, legend, "start", each.name);
    legend += 20;
  };
  for (const Series& each : series)
    if (!each.marked) draw(each, "#c8ccd1");
  for (const Series& each : series)
    if (each.marked) draw(each, colours[next_colour++ % std::size(colours)]);
  out << "</svg>\n";
  return out.str();
}

}  // namespace common
