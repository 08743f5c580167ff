// SPDX-License-Identifier: Apache-2.0
#include "results.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "chart.hpp"
#include "plots.hpp"

namespace uptrain {
namespace {

using common::Chart;

/// Two seeds of a world in which everything is as expected, but that first is better than mean before
/// uptraining.
Results expected_results() {
  Results results{
      .settings = {}, .text_name = "a text", .text_digest = "0", .text_bytes = 1000, .base = {}, .runs = {}};
  results.settings.shape.vocabulary = 10;
  results.settings.seeds = 2;
  results.settings.methods = {Method::random, Method::first, Method::mean, Method::aligned, Method::low_rank};
  results.base = {1.0, 1.25};
  for (Index seed = 1; seed <= 2; ++seed) {
    const double base = seed == 1 ? 1.0 : 1.25;
    results.runs.push_back({seed, std::nullopt, 8, 10240, {base, base, base, base}});
    for (const Index kv_heads : {4, 2, 1}) {
      const double lost = 2 - 0.25 * static_cast<double>(kv_heads);
      const auto add = [&](Method method, double factor, std::vector<double> left) {
        for (double& x : left) x = base + factor * lost * x;
        results.runs.push_back({seed, method, kv_heads, kv_heads * 1280, left});
      };
      add(Method::random, 1.5, {1, 0.8, 0.75, 0.7});
      add(Method::first, 0.75, {1, 0.5, 0.375, 0.3});
      add(Method::mean, 1, {1, 0.5, 0.25, 0.2});
      add(Method::aligned, 0.5, {1, 0.5, 0.25, 0.125});
      add(Method::low_rank, 0.125, {1});
    }
  }
  return results;
}

const Claim& claim_of(const std::vector<Claim>& claims, const std::string& part) {
  const auto found =
      std::ranges::find_if(claims, [&](const Claim& c) { return c.text.find(part) != std::string::npos; });
  EXPECT_NE(found, claims.end()) << part;
  return *found;
}

TEST(Results, CountsHowOftenEachClaimHeld) {
  Results results = expected_results();
  auto claims = results.claims();
  EXPECT_EQ(claims.size(), 6U);
  for (const auto& [part, of] : {std::pair{"aligned-mean below mean at G = 2 after 5 %", 2},
                                 {"mean below random at G = 2 after 5 %", 2},
                                 {"more KV heads at most", 2 * 2 * 4},
                                 {"at least 60 %", 2 * 3 * 3},
                                 {"low-rank, untrained, below the mean after 10 %", 2 * 3},
                                 {"first below mean at G = 2 before uptraining", 2}}) {
    EXPECT_EQ(claim_of(claims, part).of, of) << part;
    EXPECT_EQ(claim_of(claims, part).held, of) << part;
  }
  // One seed in which the mean is above random after 5 % at G = 2, and so above G = 1, with too little
  // recovered.
  for (Result& run : results.runs)
    if (run.seed == 1 && run.method == Method::mean && run.kv_heads == 2) run.losses[2] = 2.9;
  claims = results.claims();
  EXPECT_EQ(claim_of(claims, "mean below random").held, 1);
  EXPECT_EQ(claim_of(claims, "aligned-mean below mean").held, 2);
  EXPECT_EQ(claim_of(claims, "more KV heads").held, 15);
  EXPECT_EQ(claim_of(claims, "at least 60 %").held, 17);
  EXPECT_EQ(claim_of(claims, "low-rank").held, 6);
  // The same loss with fewer heads is as claimed.
  for (Result& run : results.runs)
    if (run.seed == 1 && run.method == Method::mean && run.kv_heads == 1) run.losses[2] = 2.9;
  EXPECT_EQ(claim_of(results.claims(), "more KV heads").held, 16);
  // What was not run is not claimed.
  results.settings.methods = {Method::random};
  std::erase_if(results.runs, [](const Result& run) { return run.method != Method::random; });
  EXPECT_EQ(results.claims().size(), 1U);
}

TEST(Results, RecoveredIsAShareOfWhatWasLost) {
  const Results results = expected_results();
  EXPECT_EQ(results.recovered(Method::mean, 4, 2), (std::vector<double>{0.75, 0.75}));
  EXPECT_TRUE(results.recovered(Method::low_rank, 4, 2).empty());
}

TEST(Results, TableHasARowForEachMethodAndTheirSpread) {
  const std::string table = expected_results().table();
  for (const char* part :
       {"a text, 1000 bytes, 10 symbols", "2 seeds", "MHA       1.1250 +- 0.1250 nats a symbol", "after 2 %",
        "after 5 %", "after 10 %", "aligned-mean", "low-rank", "2.6250 +- 0.1250", "75 %", "5120",
        "2 of 2  aligned-mean below mean at G = 2 after 5 %", "MHA 5120"})
    EXPECT_NE(table.find(part), std::string::npos) << part << " in\n" << table;
  EXPECT_EQ(std::ranges::count(table, '\n'), 3 + 1 + 1 + 15 + 2 + 6);
}

TEST(Results, JsonHoldsAllOfIt) {
  const Results results = expected_results();
  const auto json = nlohmann::json::parse(results.json().dump());
  EXPECT_EQ(json.at("runs").size(), results.runs.size());
  EXPECT_EQ(json.at("summary").size(), 15U);
  EXPECT_EQ(json.at("runs")[0].at("method"), "mha");
  EXPECT_EQ(json.at("mha").at("losses"), (std::vector<double>{1.0, 1.25}));
  EXPECT_EQ(json.at("mha").at("cache_bytes_per_token"), 4 * 5 * 2 * 128);
  EXPECT_EQ(json.at("summary")[3].at("method"), "aligned-mean");
  EXPECT_EQ(json.at("summary")[3].at("cache_bytes_per_token"), 4 * 4 * 1280);
  EXPECT_EQ(json.at("summary")[2].at("losses")[0].at("mean"), 1.125 + 1);
  EXPECT_EQ(json.at("summary")[2].at("recovered").at("low"), 0.75);
  EXPECT_EQ(json.at("settings").at("methods").size(), 5U);
  EXPECT_EQ(json.at("expected")[0].at("held"), 2);
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Plots, OneForEachGAndTwoOverThem) {
  const auto all = plots(expected_results());
  ASSERT_EQ(all.size(), 5U);
  for (const auto& [file, svg] : all) {
    EXPECT_EQ(count(svg, "<svg"), 1U);
    EXPECT_EQ(count(svg, "</svg>"), 1U);
    EXPECT_EQ(count(svg, ">MHA</text>"), 1U) << file;
    EXPECT_EQ(count(svg, "<g "), count(svg, "</g>"));
    EXPECT_EQ(count(svg, "nan"), 0U);
    EXPECT_EQ(count(svg, "inf"), 0U);
    for (const char* method : {"random", "first", "mean", "aligned-mean", "low-rank, untrained"})
      EXPECT_EQ(count(svg, ">" + std::string(method) + "</text>"), 1U) << file;
  }
  EXPECT_EQ(all[0].file, "loss_by_share_g4.svg");
  EXPECT_EQ(count(all[0].svg, "<polyline"), 4U);  // what is not trained is a point
  EXPECT_EQ(count(all[3].svg, "<polyline"), 5U);
  EXPECT_EQ(all[4].file, "loss_by_cache.svg");
  EXPECT_EQ(count(all[4].svg, "<polyline"), 1U);
  EXPECT_EQ(count(all[4].svg, ">Pareto front</text>"), 1U);
}

TEST(Chart, PutsPointsWhereTheyBelong) {
  Chart chart{.title = "a < b",
              .x_title = "x",
              .y_title = "y",
              .x_ticks = {{1, "one"}, {2, "two"}, {4, "four"}},
              .logarithmic_x = true,
              .series = {{.name = "s", .points = {{1, 0, 0, 0}, {2, 5, 5, 5}, {4, 10, 8, 10}}}},
              .line = {}};
  const std::string svg = chart.svg();
  // From the lower left to the upper right by equal steps.
  EXPECT_NE(svg.find("points=\"80.0,346.0 271.0,193.0 462.0,40.0 \""), std::string::npos) << svg;
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_NE(svg.find(">10.0</text>"), std::string::npos);
  // From 0.5 to 50 by equal ratios, with ends at round numbers.
  chart.logarithmic_y = true;
  chart.series[0].points = {{1, 0.5, 0.5, 0.5}, {2, 5, 5, 5}, {4, 50, 50, 50}};
  const std::string powers = chart.svg();
  EXPECT_NE(powers.find("points=\"80.0,346.0 271.0,193.0 462.0,40.0 \""), std::string::npos) << powers;
  for (const char* label : {">0.5</text>", ">1</text>", ">2</text>", ">20</text>", ">50</text>"})
    EXPECT_NE(powers.find(label), std::string::npos) << label;
  EXPECT_EQ(powers.find(">100</text>"), std::string::npos);
  chart.series[0].points = {{3, 1, 1, 1}};  // no range at all
  EXPECT_EQ(chart.svg().find("nan"), std::string::npos);
  chart.logarithmic_y = false;
  EXPECT_EQ(chart.svg().find("nan"), std::string::npos);
}

}  // namespace
}  // namespace uptrain
