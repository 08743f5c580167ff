// SPDX-License-Identifier: Apache-2.0
#include "results.hpp"

#include <algorithm>
#include <iomanip>
#include <numeric>
#include <sstream>

namespace uptrain {
namespace {

nlohmann::ordered_json json_of(const Spread& spread) {
  return {{"mean", spread.mean}, {"low", spread.low}, {"high", spread.high}};
}

}  // namespace

std::string percent(double share) {
  std::ostringstream out;
  out << std::setprecision(3) << 100 * share << " %";
  return out.str();
}

Spread::Spread(const std::vector<double>& values)
    : mean(std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size())),
      low(*std::ranges::min_element(values)),
      high(*std::ranges::max_element(values)) {}

std::vector<double> Results::losses(std::optional<Method> method, Index kv_heads, std::size_t share) const {
  std::vector<double> found;
  for (const Result& run : runs)
    if (run.method == method && run.kv_heads == kv_heads && share < run.losses.size())
      found.push_back(run.losses[share]);
  return found;
}

Index Results::cache_elements(std::optional<Method> method, Index kv_heads) const {
  for (const Result& run : runs)
    if (run.method == method && run.kv_heads == kv_heads) return run.cache_elements;
  return 0;
}

std::vector<double> Results::recovered(Method method, Index kv_heads, std::size_t share) const {
  const auto before = losses(method, kv_heads, 0), after = losses(method, kv_heads, share);
  std::vector<double> recovered;
  for (std::size_t i = 0; i < after.size(); ++i)
    recovered.push_back((before[i] - after[i]) / (before[i] - base[i]));
  return recovered;
}

std::vector<Claim> Results::claims() const {
  const std::size_t share = middle_share();
  const auto counts = settings.kv_heads();
  const Index quarter = counts[std::min<std::size_t>(1, counts.size() - 1)];
  const std::string after = " after " + percent(settings.shares[share - 1]);
  std::vector<Claim> claims;
  // For each seed, whether one number is below (or at most) another.
  const auto compare = [](Claim& claim, const std::vector<double>& a, const std::vector<double>& b,
                          bool or_equal = false) {
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      claim.held += a[i] < b[i] || (or_equal && a[i] == b[i]) ? 1 : 0;
      ++claim.of;
    }
  };
  const auto below = [&](Method a, Method b, std::size_t at, const std::string& when) {
    Claim claim{std::string(name_of(a)) + " below " + std::string(name_of(b)) +
                " at G = " + std::to_string(quarter) + when};
    compare(claim, losses(a, quarter, at), losses(b, quarter, at));
    claims.push_back(claim);
  };
  below(Method::aligned, Method::mean, share, after);
  below(Method::mean, Method::random, share, after);

  Claim order{"more KV heads at most the loss of fewer, each method" + after};
  Claim recovery{"at least 60 % of what was lost recovered, each method but random, each G" + after};
  Claim low_rank{"low-rank, untrained, below the mean" + std::string(" after ") +
                 percent(settings.shares.back()) + ", each G"};
  for (const Method method : settings.methods) {
    for (std::size_t i = 0; i + 1 < counts.size(); ++i)
      compare(order, losses(method, counts[i], share), losses(method, counts[i + 1], share), true);
    if (method == Method::random) continue;
    for (const Index kv_heads : counts)
      for (const double part : recovered(method, kv_heads, share)) {
        recovery.held += part >= 0.6 ? 1 : 0;
        ++recovery.of;
      }
  }
  for (const Index kv_heads : counts)
    compare(low_rank, losses(Method::low_rank, kv_heads, 0),
            losses(Method::mean, kv_heads, settings.shares.size()));
  claims.push_back(order);
  claims.push_back(recovery);
  claims.push_back(low_rank);
  below(Method::first, Method::mean, 0, " before uptraining (it may)");
  std::erase_if(claims, [](const Claim& claim) { return claim.of == 0; });
  return claims;
}

std::string Results::table() const {
  std::ostringstream out;
  out << std::fixed << std::setprecision(4);
  const auto number = [&](const std::vector<double>& values) {
    std::ostringstream text;
    text << std::fixed << std::setprecision(4) << Spread(values).mean;
    if (values.size() > 1) text << " +- " << Spread(values).half_range();
    return text.str();
  };
  const int width = settings.seeds > 1 ? 18 : 9;
  const Index H = settings.shape.num_q_heads;
  out << "text      " << text_name << ", " << text_bytes << " bytes, " << settings.shape.vocabulary
      << " symbols\n"
      << "model     " << settings.shape.layers << " layers of width " << settings.shape.width << ", " << H
      << " heads, " << Places(settings.shape).size << " parameters; " << settings.steps << " steps of "
      << settings.batch << " x " << settings.shape.context << " symbols, " << settings.seeds
      << (settings.seeds == 1 ? " seed\n" : " seeds, +- half their range\n") << "MHA       " << number(base)
      << " nats a symbol";
  for (std::size_t s = 1; s <= settings.shares.size(); ++s)
    if (const auto on = losses(std::nullopt, H, s); !on.empty())
      out << (s == 1 ? "; trained on, " : ", ") << number(on) << " after " << percent(settings.shares[s - 1]);
  out << "\n\n    G  method        bytes a token" << std::setw(width + 2) << "converted";
  for (const double share : settings.shares) out << std::setw(width + 2) << "after " + percent(share);
  out << "   recovered\n";
  for (const Index kv_heads : settings.kv_heads())
    for (const Method method : settings.methods) {
      if (losses(method, kv_heads, 0).empty()) continue;
      out << std::setw(5) << kv_heads << "  " << std::left << std::setw(12) << name_of(method) << std::right
          << std::setw(15) << 4 * cache_elements(method, kv_heads);
      for (std::size_t s = 0; s <= settings.shares.size(); ++s) {
        const auto values = losses(method, kv_heads, s);
        out << std::setw(width + 2) << (values.empty() ? "-" : number(values));
      }
      if (const auto part = recovered(method, kv_heads, middle_share()); !part.empty())
        out << std::setw(10) << std::setprecision(0) << 100 * Spread(part).mean << std::setprecision(4)
            << " %";
      out << "\n";
    }
  out << "\nbytes a token: of an f32 cache of all layers; MHA "
      << 4 * settings.shape.with_kv_heads(H).cache_elements()
      << ". recovered: of what the conversion lost, after " << percent(settings.shares[middle_share() - 1])
      << "\n";
  for (const Claim& claim : claims())
    out << std::setw(4) << claim.held << " of " << claim.of << "  " << claim.text << "\n";
  return out.str();
}

nlohmann::ordered_json Results::json() const {
  auto list = nlohmann::ordered_json::array();
  for (const Result& run : runs)
    list.push_back({{"seed", run.seed},
                    {"method", run.method ? name_of(*run.method) : "mha"},
                    {"kv_heads", run.kv_heads},
                    {"cache_bytes_per_token", 4 * run.cache_elements},
                    {"losses", run.losses}});
  auto summary = nlohmann::ordered_json::array();
  for (const Index kv_heads : settings.kv_heads())
    for (const Method method : settings.methods) {
      if (losses(method, kv_heads, 0).empty()) continue;
      auto spreads = nlohmann::ordered_json::array();
      for (std::size_t s = 0; !losses(method, kv_heads, s).empty(); ++s)
        spreads.push_back(json_of(Spread(losses(method, kv_heads, s))));
      summary.push_back({{"method", name_of(method)},
                         {"kv_heads", kv_heads},
                         {"cache_bytes_per_token", 4 * cache_elements(method, kv_heads)},
                         {"losses", spreads}});
      if (const auto part = recovered(method, kv_heads, middle_share()); !part.empty())
        summary.back()["recovered"] = json_of(Spread(part));
    }
  auto expected = nlohmann::ordered_json::array();
  for (const Claim& claim : claims())
    expected.push_back({{"claim", claim.text}, {"held", claim.held}, {"of", claim.of}});
  return {{"settings", settings.json()},
          {"text", {{"name", text_name}, {"bytes", text_bytes}, {"xxh3", text_digest}}},
          {"mha", {{"losses", base}, {"cache_bytes_per_token", 4 * settings.shape.cache_elements()}}},
          {"runs", list},
          {"summary", summary},
          {"expected", expected},
          {"threads", threads},
          {"seconds", seconds}};
}

}  // namespace uptrain
