// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <sstream>

namespace convert {
namespace {

constexpr Index f16_bytes = 2;

double megabytes(Index bytes) { return static_cast<double>(bytes) / 1e6; }

double perplexity(const generate::Likelihood& likelihood) { return std::exp(likelihood.mean_negative_log); }

}  // namespace

Index Report::cache_before() const {
  Index sum = 0;
  for (const Layer& layer : layers) sum += layer.report.cache_before.elements_per_token;
  return sum;
}

Index Report::cache_after() const {
  Index sum = 0;
  for (const Layer& layer : layers) sum += layer.report.cache_after.elements_per_token;
  return sum;
}

Index Report::distinct_heads(const Layer& layer) { return *std::ranges::max_element(layer.groups) + 1; }

Index Report::distinct_heads() const {
  Index sum = 0;
  for (const Layer& layer : layers) sum += distinct_heads(layer);
  return sum;
}

std::string Report::text() const {
  std::ostringstream out;
  out << std::fixed << std::setprecision(2);
  out << "model       " << sizes.name << ": " << sizes.num_layers << " layers, " << sizes.num_q_heads
      << " query heads, " << sizes.num_kv_heads << " KV heads, " << megabytes(bytes_before) << " MB\n";
  out << "conversion  ";
  if (expands()) {
    out << "each KV head " << settings.num_kv_heads / sizes.num_kv_heads << " times";
  } else if (settings.method == Method::low_rank) {
    out << "keys and values of rank " << layers.front().report.cache_after.elements_per_token;
  } else {
    out << name_of(settings.method) << " of " << name_of(settings.grouping) << " groups"
        << (settings.keep_norms ? ", norms kept" : "");
  }
  if (calibration_tokens) out << ", calibrated on " << *calibration_tokens << " tokens";
  out << ", in " << conversion_seconds << " s\n";
  out << "file        " << path << ": " << num_kv_heads << " KV heads, " << megabytes(bytes_after) << " MB\n";

  const Index full = sizes.context_length;
  const auto cache = [&](Index elements) {
    std::ostringstream cell;
    cell << std::fixed << std::setprecision(1) << megabytes(elements * f16_bytes * full) << " MB";
    return cell.str();
  };
  out << "KV cache    " << cache(cache_before()) << " before, " << cache(cache_after()) << " after (f16, "
      << full << " tokens" << (settings.method == Method::low_rank ? ", as latent vectors" : "") << ")\n";
  if (settings.grouping == Grouping::asymmetric) {
    const auto [least, most] =
        std::ranges::minmax(layers, {}, [](const Layer& l) { return distinct_heads(l); });
    const Index heads = distinct_heads();
    out << "KV heads    " << heads << " in all, " << distinct_heads(least) << " to " << distinct_heads(most)
        << " a layer: " << cache(heads * (sizes.head_dim + sizes.value_dim))
        << " of cache with each kept once; the file repeats them\n";
  }
  if (!expands()) {
    double worst = 0, sum = 0;
    for (const Layer& layer : layers) {
      worst = std::max(worst, layer.report.relative_error());
      sum += layer.report.relative_error();
    }
    out << std::setprecision(1) << "lost        " << 100 * sum / static_cast<double>(layers.size())
        << " % of the squares of " << (calibration_tokens ? "keys and values" : "their projections")
        << " on average, " << 100 * worst << " % in the worst layer\n";
  }
  out << std::setprecision(3);
  if (before) {
    out << "perplexity  " << perplexity(*before) << " before";
    if (after) out << ", " << perplexity(*after) << " after";
    out << " (" << before->num_tokens << " tokens)\n";
  }
  return out.str();
}

nlohmann::ordered_json Report::json() const {
  nlohmann::ordered_json object{{"model", sizes.name},
                                {"out", path},
                                {"layers", sizes.num_layers},
                                {"q_heads", sizes.num_q_heads},
                                {"kv_heads_before", sizes.num_kv_heads},
                                {"kv_heads_after", num_kv_heads}};
  if (!expands()) {
    object["method"] = name_of(settings.method);
    if (settings.method != Method::low_rank) object["grouping"] = name_of(settings.grouping);
    if (settings.grouping == Grouping::clustered || settings.grouping == Grouping::asymmetric)
      object["distance"] = name_of(settings.distance);
    object["keep_norms"] = settings.keep_norms;
  }
  if (calibration_tokens) object["calibration_tokens"] = *calibration_tokens;
  object["cache_elements_per_token"] = {{"before", cache_before()}, {"after", cache_after()}};
  object["file_bytes"] = {{"before", bytes_before}, {"after", bytes_after}};
  if (before) {
    object["perplexity_tokens"] = before->num_tokens;
    object["perplexity"]["before"] = perplexity(*before);
    if (after) object["perplexity"]["after"] = perplexity(*after);
  }
  if (!expands()) {
    auto list = nlohmann::ordered_json::array();
    for (const Layer& layer : layers) {
      list.push_back({{"groups", layer.groups},
                      {"key_error", layer.report.keys.error()},
                      {"value_error", layer.report.values.error()},
                      {"relative_error", layer.report.relative_error()},
                      {"ambiguous_keys", layer.report.ambiguous_keys},
                      {"ambiguous_values", layer.report.ambiguous_values}});
    }
    object["by_layer"] = list;
    if (settings.method != Method::low_rank) object["distinct_kv_heads"] = distinct_heads();
  }
  object["conversion_seconds"] = conversion_seconds;
  return object;
}

}  // namespace convert
