// SPDX-License-Identifier: Apache-2.0
// Users against context in a budget, as a picture.
#pragma once

#include <string>
#include <vector>

#include "capacity.hpp"
#include "chart.hpp"

namespace cache_size {

/// 1,024 tokens, twice that and so on up to `most`, which is the last; `most` alone where it is less.
inline std::vector<Index> contexts_up_to(Index most) {
  std::vector<Index> all;
  for (Index n = 1024; n < most; n *= 2) all.push_back(n);
  all.push_back(most);
  return all;
}

/// "128k", or "1,000" where it is no multiple of 1,024.
inline std::string tokens_text(Index n) { return n % 1024 == 0 ? grouped(n / 1024) + "k" : grouped(n); }

/// The name of a variant where there is little room; what the model is stands in the title.
inline std::string plot_name(const std::string& label) {
  return label.starts_with("this: ") ? "this model" : label;
}

/// The most users of each length up to `c.context`, of each way to keep keys and values; both axes are
/// logarithmic. Throws std::invalid_argument where none fits at any length.
inline std::string plot_of(const Case& c, const Budget& budget) {
  const std::string kept = variants(c, budget)[1].label.substr(std::string("this: ").size());
  common::Chart chart{.title = c.name + " (" + kept + "), " + c.dtype + ", " + scaled(budget.for_cache()),
                      .x_title = "tokens of each user",
                      .y_title = "users at once",
                      .x_ticks = {},
                      .logarithmic_x = true,
                      .logarithmic_y = true,
                      .series = {},
                      .line = {}};
  const std::vector<Index> contexts = contexts_up_to(c.context);
  // There is room for eight.
  for (std::size_t i = 0; i < contexts.size(); ++i)
    if ((contexts.size() - 1 - i) % ((contexts.size() - 1) / 8 + 1) == 0)
      chart.x_ticks.push_back({static_cast<double>(contexts[i]), tokens_text(contexts[i])});
  for (const Variant& each : variants(c, budget)) {
    common::Series series{.name = plot_name(each.label), .points = {}};
    for (const Index context : contexts) {
      if (context <= each.budget.shared_tokens) continue;  // a user has tokens of its own
      Case at = c;
      at.context = context;
      const auto users = static_cast<double>(fit(each.label, each.shape, at, each.budget).users);
      if (users > 0) series.points.push_back({static_cast<double>(context), users, users, users});
    }
    chart.series.push_back(std::move(series));
  }
  GQA_CHECK(std::ranges::any_of(chart.series, [](const auto& series) { return !series.points.empty(); }),
            std::invalid_argument,
            "nothing to plot: no user of " << grouped(contexts.front()) << " tokens fits in "
                                           << scaled(budget.for_cache()));
  return chart.svg();
}

}  // namespace cache_size
