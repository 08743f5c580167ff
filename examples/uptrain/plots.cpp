// SPDX-License-Identifier: Apache-2.0
#include "plots.hpp"

#include <algorithm>

#include "chart.hpp"

namespace uptrain {
namespace {

using common::Chart, common::Series;

Series::Point point(double x, const std::vector<double>& losses) {
  const Spread spread(losses);
  return {x, spread.mean, spread.low, spread.high};
}

Chart with_mha(const Results& results, const std::string& title) {
  return {.title = title,
          .x_title = {},
          .y_title = "loss, nats a symbol",
          .x_ticks = {},
          .series = {},
          .line = Chart::Line{"MHA", Spread(results.base).mean}};
}

/// One series a method, of what `points` finds.
template <class Points>
void add_methods(const Results& results, Chart& chart, Points&& points) {
  for (const Method method : results.settings.methods) {
    Series series{.name = std::string(name_of(method)), .points = {}};
    points(method, series);
    if (method == Method::low_rank) series.name += ", untrained";
    chart.series.push_back(std::move(series));
  }
}

}  // namespace

std::vector<Plot> plots(const Results& results) {
  const auto& shares = results.settings.shares;
  const auto counts = results.settings.kv_heads();
  const Index H = results.settings.shape.num_q_heads;
  std::vector<Plot> plots;

  for (const Index kv_heads : counts) {
    Chart chart = with_mha(results, "From " + std::to_string(H) + " KV heads to " + std::to_string(kv_heads));
    chart.x_title = "uptraining, % of the steps of training";
    chart.x_ticks = {{0, "0"}};
    for (const double share : shares) chart.x_ticks.push_back({share, percent(share)});
    add_methods(results, chart, [&](Method method, Series& series) {
      for (std::size_t s = 0; s <= shares.size(); ++s)
        if (const auto losses = results.losses(method, kv_heads, s); !losses.empty())
          series.points.push_back(point(s == 0 ? 0 : shares[s - 1], losses));
    });
    plots.push_back({"loss_by_share_g" + std::to_string(kv_heads) + ".svg", chart.svg()});
  }

  const std::size_t middle = results.middle_share();
  Chart by_group = with_mha(results, "Loss by KV heads, after " + percent(shares[middle - 1]));
  by_group.x_title = "KV heads";
  by_group.logarithmic_x = true;
  for (const Index kv_heads : counts)
    by_group.x_ticks.push_back({static_cast<double>(kv_heads), std::to_string(kv_heads)});
  add_methods(results, by_group, [&](Method method, Series& series) {
    for (const Index kv_heads : counts) {
      const auto losses = results.losses(method, kv_heads, method == Method::low_rank ? 0 : middle);
      if (!losses.empty()) series.points.push_back(point(static_cast<double>(kv_heads), losses));
    }
  });
  plots.push_back({"loss_by_group.svg", by_group.svg()});

  // A method's own points need no line; what no other beats in both has one.
  Chart by_cache = with_mha(results, "Loss by cache, after " + percent(shares.back()));
  by_cache.x_title = "bytes of an f32 cache for a token of all layers";
  by_cache.logarithmic_x = true;
  const double mha = 4 * static_cast<double>(results.settings.shape.with_kv_heads(H).cache_elements());
  by_cache.x_ticks.push_back({mha, std::to_string(static_cast<Index>(mha))});
  std::vector<Series::Point> all;
  for (const Index kv_heads : counts) {
    const Index bytes = 4 * results.settings.shape.with_kv_heads(kv_heads).cache_elements();
    by_cache.x_ticks.push_back({static_cast<double>(bytes), std::to_string(bytes)});
  }
  add_methods(results, by_cache, [&](Method method, Series& series) {
    series.connected = false;
    for (const Index kv_heads : counts) {
      const auto losses = results.losses(method, kv_heads, method == Method::low_rank ? 0 : shares.size());
      if (losses.empty()) continue;
      series.points.push_back(
          point(4 * static_cast<double>(results.cache_elements(method, kv_heads)), losses));
      all.push_back(series.points.back());
    }
  });
  Series front{.name = "Pareto front", .points = {}, .marked = false};
  for (const Series::Point& p : all) {
    const bool beaten = std::ranges::any_of(all, [&](const Series::Point& other) {
      return other.x <= p.x && other.y <= p.y && (other.x < p.x || other.y < p.y);
    });
    if (!beaten) front.points.push_back({p.x, p.y, p.y, p.y});
  }
  std::ranges::sort(front.points, {}, &Series::Point::x);
  by_cache.series.push_back(std::move(front));
  plots.push_back({"loss_by_cache.svg", by_cache.svg()});
  return plots;
}

}  // namespace uptrain
