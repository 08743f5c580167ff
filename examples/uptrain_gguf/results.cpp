// SPDX-License-Identifier: Apache-2.0
#include "results.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>
#include <utility>

#include "chart.hpp"
#include "gqa/core/error.hpp"
#include "mapped_file.hpp"

namespace uptrain_gguf {
namespace {

/// So many significant digits.
std::string digits(double x, int count) {
  std::ostringstream out;
  const int before = std::max(1, static_cast<int>(std::floor(std::log10(std::abs(x)))) + 1);
  out << std::fixed << std::setprecision(std::max(0, count - before)) << x;
  return out.str();
}

}  // namespace

Curve read_curve(const std::filesystem::path& path) {
  const generate::MappedFile file(path);
  const auto* text = reinterpret_cast<const char*>(file.bytes().data());
  try {
    const auto json = nlohmann::json::parse(text, text + file.bytes().size());
    Curve curve{.name = json.at("name"), .steps = {}, .perplexities = {}};
    for (const auto& point : json.at("perplexity")) {
      curve.steps.push_back(point.at("step"));
      curve.perplexities.push_back(point.at("perplexity"));
      GQA_CHECK(
          curve.perplexities.back() > 0, std::invalid_argument,
          path.string() << ": a perplexity is " << curve.perplexities.back() << ", expected more than 0");
    }
    return curve;
  } catch (const nlohmann::json::exception& error) {
    throw std::invalid_argument(path.string() + ": no results of this program: " + error.what());
  }
}

Curve Results::curve() const {
  Curve curve{.name = name, .steps = {}, .perplexities = {}};
  for (Index step = 0; step <= recipe.steps; ++step)
    if (recipe.is_measured(step) && curve.steps.size() < losses.size()) {
      curve.perplexities.push_back(std::exp(losses[curve.steps.size()]));
      curve.steps.push_back(step);
    }
  return curve;
}

std::string Results::text() const {
  const Curve measured = curve();
  std::ostringstream out;
  out << "model       " << model << ": " << num_kv_heads << " KV heads; trains " << num_trained << " of "
      << num_parameters << " parameters, those of attention\n"
      << "training    " << recipe.steps << " steps of " << recipe.sequences << " x " << recipe.context
      << " tokens of a text of " << text_tokens << ", rate " << recipe.rate;
  if (seconds) out << ", in " << digits(*seconds, 3) << " s";
  out << "\n";
  if (reference) out << "reference   perplexity " << digits(std::exp(*reference), 4) << "\n";
  out << "\n  step  perplexity (" << measured_tokens << " tokens)\n";
  for (std::size_t i = 0; i < measured.steps.size(); ++i)
    out << std::setw(6) << measured.steps[i] << std::setw(12) << digits(measured.perplexities[i], 4) << "\n";
  return out.str();
}

nlohmann::ordered_json Results::json() const {
  const Curve measured = curve();
  auto points = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < measured.steps.size(); ++i)
    points.push_back({{"step", measured.steps[i]}, {"perplexity", measured.perplexities[i]}});
  nlohmann::ordered_json object{{"name", name},
                                {"model", model},
                                {"kv_heads", num_kv_heads},
                                {"parameters", num_parameters},
                                {"trained", num_trained},
                                {"steps", recipe.steps},
                                {"sequences", recipe.sequences},
                                {"context", recipe.context},
                                {"rate", recipe.rate},
                                {"warm_up", recipe.warm_up},
                                {"seed", recipe.seed},
                                {"text_tokens", text_tokens},
                                {"measured_tokens", measured_tokens}};
  if (reference) object["reference_perplexity"] = std::exp(*reference);
  object["perplexity"] = std::move(points);
  if (seconds) object["seconds"] = *seconds;
  return object;
}

std::string Results::svg(const std::vector<Curve>& others) const {
  common::Chart chart{.title = model + ": attention trained, all else frozen",
                      .x_title = "steps of " + std::to_string(recipe.sequences * recipe.context) + " tokens",
                      .y_title = "perplexity",
                      .x_ticks = {},
                      .logarithmic_y = true,
                      .series = {},
                      .line = {}};
  Index last = 0;
  const auto add = [&](const Curve& curve) {
    common::Series series{.name = curve.name, .points = {}};
    for (std::size_t i = 0; i < curve.steps.size(); ++i) {
      const double y = curve.perplexities[i];
      series.points.push_back({static_cast<double>(curve.steps[i]), y, y, y});
      last = std::max(last, curve.steps[i]);
    }
    chart.series.push_back(std::move(series));
  };
  add(curve());
  for (const Curve& other : others) add(other);
  for (int i = 0; i <= 4; ++i)
    if (const Index at = last * i / 4;
        chart.x_ticks.empty() || static_cast<double>(at) > chart.x_ticks.back().at)
      chart.x_ticks.push_back({static_cast<double>(at), std::to_string(at)});
  if (reference) chart.line = common::Chart::Line{"before conversion", std::exp(*reference)};
  return chart.svg();
}

}  // namespace uptrain_gguf
