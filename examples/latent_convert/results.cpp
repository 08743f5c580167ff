// SPDX-License-Identifier: Apache-2.0
#include "results.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>
#include <utility>

#include "chart.hpp"

namespace latent_convert {
namespace {

/// So many significant digits.
std::string digits(double x, int count) {
  std::ostringstream out;
  const int before = x > 0 ? std::max(1, static_cast<int>(std::floor(std::log10(x))) + 1) : 1;
  out << std::fixed << std::setprecision(std::max(0, count - before)) << x;
  return out.str();
}

}  // namespace

std::string Results::text() const {
  std::size_t width = 4;
  for (const Measured& m : forms) width = std::max(width, m.form.text().size());
  std::ostringstream out;
  out << model << ": perplexity of " << measured_tokens << " tokens in pieces of " << context
      << ", calibrated on " << calibration_tokens << "; cache of f16\n\n"
      << std::left << std::setw(static_cast<int>(width)) << "form" << std::right
      << "  elements   bytes a token  output lost  perplexity";
  const bool timed = std::ranges::any_of(forms, [](const Measured& m) { return m.decode_ms.has_value(); });
  if (timed) out << "  ms a token at " << decode_context;
  out << "\n";
  for (const Measured& m : forms) {
    out << std::left << std::setw(static_cast<int>(width)) << m.form.text() << std::right << std::setw(10)
        << m.elements << std::setw(16) << bytes_per_token(m) << std::setw(11)
        << digits(100 * m.output_error, 3) << " %" << std::setw(12) << digits(m.perplexity, 4);
    if (m.decode_ms) out << std::setw(12) << digits(*m.decode_ms, 3);
    out << "\n";
  }
  return out.str();
}

nlohmann::ordered_json Results::json() const {
  auto all = nlohmann::ordered_json::array();
  for (const Measured& m : forms) {
    nlohmann::ordered_json object{{"form", m.form.text()},          {"family", family(m.form)},
                                  {"elements", m.elements},         {"bytes_per_token", bytes_per_token(m)},
                                  {"output_error", m.output_error}, {"perplexity", m.perplexity}};
    if (m.decode_ms) object["decode_ms"] = *m.decode_ms;
    all.push_back(std::move(object));
  }
  nlohmann::ordered_json object{{"model", model},
                                {"layers", num_layers},
                                {"calibration_tokens", calibration_tokens},
                                {"measured_tokens", measured_tokens},
                                {"context", context}};
  if (decode_context > 0) object["decode_context"] = decode_context;
  object["forms"] = std::move(all);
  return object;
}

std::string Results::svg() const {
  common::Chart chart{.title = model + ": what its cache holds, without training",
                      .x_title = "bytes of cache a token (f16)",
                      .y_title = "perplexity",
                      .x_ticks = {},
                      .logarithmic_y = true,
                      .series = {},
                      .line = {}};
  Index most = 0;
  for (const Measured& m : forms) {
    most = std::max(most, bytes_per_token(m));
    if (m.form.kind == Kind::source) {
      chart.line = common::Chart::Line{family(m.form), m.perplexity};
      continue;
    }
    const std::string name = family(m.form);
    auto found = std::ranges::find(chart.series, name, &common::Series::name);
    if (found == chart.series.end())
      found = chart.series.insert(found, common::Series{.name = name, .points = {}});
    found->points.push_back(
        {static_cast<double>(bytes_per_token(m)), m.perplexity, m.perplexity, m.perplexity});
  }
  for (common::Series& series : chart.series)
    std::ranges::sort(series.points, {}, [](const auto& point) { return point.x; });
  for (int i = 0; i <= 4; ++i)
    chart.x_ticks.push_back({static_cast<double>(most * i / 4), std::to_string(most * i / 4)});
  return chart.svg();
}

}  // namespace latent_convert
