// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>

#include "chart.hpp"

namespace read_less {
namespace {

double perplexity(double mean_negative_log) { return std::exp(mean_negative_log); }

std::string long_name(Method method) {
  switch (method) {
    case Method::recent:
      return "sinks and the last";
    case Method::h2o:
      return "H2O";
    case Method::snapkv:
      return "SnapKV";
    case Method::pages:
      break;
  }
  return "page top-k (Quest)";
}

}  // namespace

std::string table(const Results& results, const std::string& model) {
  const Settings& settings = results.settings;
  std::ostringstream out;
  out << model << ": " << settings.prompt << " tokens read in full, then " << settings.tokens
      << ", one by one; MB of f32 keys, values and bounds of all layers\n\n"
      << "                        MB read      MB\n"
      << "method   keep tokens  for a token    held  perplexity\n"
      << std::fixed;
  const auto line = [&](const std::string& name, Index keep, double read, Index held, double loss) {
    out << std::left << std::setw(8) << name << std::right << std::setw(12) << keep << std::setw(13)
        << std::setprecision(2) << read / 1e6 << std::setw(8) << static_cast<double>(held) / 1e6
        << std::setw(12) << perplexity(loss) << "\n";
  };
  line("all", settings.num_tokens(), results.full_bytes_read, results.full_bytes_held,
       results.full_mean_negative_log);
  for (const Method method : settings.methods)
    for (const Outcome& run : results.runs)
      if (run.method == method)
        line(name_of(method), run.keep, run.bytes_read, run.bytes_held, run.mean_negative_log);
  return out.str();
}

nlohmann::ordered_json to_json(const Results& results, const std::string& model) {
  const Settings& settings = results.settings;
  nlohmann::ordered_json json{{"model", model},
                              {"prompt_tokens", settings.prompt},
                              {"tokens", settings.tokens},
                              {"sinks", settings.sinks},
                              {"window", settings.window},
                              {"pool", settings.pool},
                              {"bytes_per_token", results.token_bytes},
                              {"all",
                               {{"bytes_read", results.full_bytes_read},
                                {"bytes_held", results.full_bytes_held},
                                {"mean_negative_log", results.full_mean_negative_log},
                                {"perplexity", perplexity(results.full_mean_negative_log)}}}};
  json["runs"] = nlohmann::ordered_json::array();
  for (const Outcome& run : results.runs)
    json["runs"].push_back({{"method", name_of(run.method)},
                            {"keep", run.keep},
                            {"bytes_read", run.bytes_read},
                            {"bytes_held", run.bytes_held},
                            {"mean_negative_log", run.mean_negative_log},
                            {"perplexity", perplexity(run.mean_negative_log)}});
  return json;
}

std::string picture(const Results& results, const std::string& model) {
  const auto tokens_of = [&](double bytes) { return bytes / static_cast<double>(results.token_bytes); };
  common::Chart chart{.title = model + ": " + std::to_string(results.settings.tokens) +
                               " tokens after a prompt of " + std::to_string(results.settings.prompt),
                      .x_title = "bytes read for each token, by what a token's keys and values take",
                      .y_title = "perplexity",
                      .x_ticks = {},
                      .logarithmic_x = true,
                      .series = {},
                      .line = common::Chart::Line{"all", perplexity(results.full_mean_negative_log)}};
  Index first = 0;  // labels stand apart by a fifth at least
  std::vector<Index> keeps = results.settings.keep;
  std::ranges::sort(keeps);
  for (const Index keep : keeps) {
    const bool apart = 5 * keep >= 6 * first;
    if (apart) first = keep;
    chart.x_ticks.push_back({static_cast<double>(keep), apart ? std::to_string(keep) : ""});
  }
  for (const Method method : results.settings.methods) {
    common::Series series{.name = long_name(method), .points = {}};
    for (const Outcome& run : results.runs)
      if (run.method == method) {
        const double y = perplexity(run.mean_negative_log);
        series.points.push_back({tokens_of(run.bytes_read), y, y, y});
      }
    std::ranges::sort(series.points, {}, &common::Series::Point::x);
    chart.series.push_back(std::move(series));
  }
  const auto worst = std::ranges::max_element(results.runs, {}, &Outcome::mean_negative_log);
  chart.logarithmic_y = worst != results.runs.end() &&  // where a line would lie on the floor otherwise
                        worst->mean_negative_log > results.full_mean_negative_log + 2;
  return chart.svg();
}

}  // namespace read_less
