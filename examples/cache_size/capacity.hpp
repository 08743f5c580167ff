// SPDX-License-Identifier: Apache-2.0
// How much fits in a machine's memory: the library's planner asked for a model, as it is and with other
// heads.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gqa/plan/capacity.hpp"
#include "report.hpp"

namespace cache_size {

/// What memory there is, and for whom.
struct Budget {
  Index memory = 0;                      ///< bytes of all
  Index weights = 0;                     ///< of those, for the model's weights
  std::optional<Index> users = {};       ///< sequences at once: how long may they be
  std::optional<Index> context = {};     ///< tokens of each: how many are there
  std::string placement = "contiguous";  ///< or paged, hybrid; a latent has but one
  Index page_tokens = 64, shared_tokens = 0;
  Index max_span = 512;

  Index for_cache() const {
    GQA_CHECK(memory >= weights, std::invalid_argument,
              "budget is " << scaled(memory) << ", less than the weights' " << scaled(weights));
    return memory - weights;
  }
};

inline gqa::CachePlan plan_of(const Shape& s, const Budget& budget) {
  using gqa::CacheLayer, gqa::CachePlacement;
  if (s.latent_dim > 0) {
    GQA_CHECK(budget.placement == "contiguous" && budget.shared_tokens == 0, std::invalid_argument,
              "a latent cache is contiguous: leave --placement and --shared-tokens out");
    return gqa::CachePlan(
        {.layers = gqa::uniform_layers(
             s.layers, {.num_kv_heads = 1, .head_dim = s.latent_dim, .value_dim = s.latent_dim}),
         .placement = CachePlacement::latent});
  }
  CacheLayer layer{.num_kv_heads = s.kv_heads, .head_dim = s.head_dim, .value_dim = s.value_dim};
  std::vector<CacheLayer> layers = gqa::uniform_layers(s.layers, layer);
  if (budget.placement == "hybrid")
    for (Index i = 0; i < s.local_layers; ++i) layers[static_cast<std::size_t>(i)].window = s.window;
  return gqa::CachePlan({.layers = std::move(layers),
                         .placement = budget.placement == "hybrid"  ? CachePlacement::hybrid
                                      : budget.placement == "paged" ? CachePlacement::paged
                                                                    : CachePlacement::contiguous,
                         .page_tokens = budget.page_tokens,
                         .shared_tokens = budget.shared_tokens,
                         .max_span = budget.placement == "hybrid" ? budget.max_span : 1});
}

/// Calls f.operator()<T>() for the type of that name. Throws std::invalid_argument for those no cache holds.
template <class F>
auto with_scalar(const std::string& dtype, F&& f) {
  if (dtype == "f64") return f.template operator()<double>();
  if (dtype == "f32") return f.template operator()<float>();
  if (dtype == "f16") return f.template operator()<gqa::half>();
  GQA_CHECK(
      dtype == "bf16", std::invalid_argument,
      "dtype is '" << dtype << "', expected f64, f32, f16 or bf16: a budget counts what caches allocate");
  return f.template operator()<gqa::bfloat16>();
}

/// What one way to keep keys and values comes to in the budget.
struct Fit {
  std::string label;
  Index users = 0, context = 0;  ///< one of them given, the other found
  Index bytes = 0;               ///< that they take
};

inline Fit fit(const std::string& label, const Shape& shape, const Case& c, const Budget& budget) {
  const gqa::CachePlan plan = plan_of(shape, budget);
  const Index memory = budget.for_cache();
  return with_scalar(c.dtype, [&]<class T>() {
    Fit found{.label = label};
    if (budget.users) {
      found.users = *budget.users;
      found.context = gqa::longest_context<T>(plan, memory, found.users, c.context);
    } else {
      found.context = c.context;
      found.users = gqa::most_users<T>(plan, memory, found.context);
    }
    if (found.context > 0) found.bytes = plan.bytes<T>(found.context, found.users);
    return found;
  });
}

/// The model as MHA, as it is, and as MQA. `c.context` is the longest it has, or the one that is asked for.
inline std::vector<Fit> fits(const Case& c, const Budget& budget) {
  const Shape& s = c.shape;
  std::vector<Fit> all = {fit("MHA, " + kv_heads_text(s.q_heads), c.mha(), c, budget)};
  all.push_back(fit(s.latent_dim > 0 ? "this: MLA, " + grouped(s.latent_dim) + " elements"
                                     : std::string("this: ") + kind(s) + ", " + kv_heads_text(s.kv_heads),
                    s, c, budget));
  all.push_back(fit("MQA, " + kv_heads_text(1), c.mqa(), c, budget));
  return all;
}

inline std::string capacity_text(const Case& c, const Budget& budget) {
  std::ostringstream text;
  text << c.name << " in " << c.dtype << ": " << scaled(budget.for_cache()) << " for keys and values of "
       << scaled(budget.memory) << ", " << budget.placement << "\n";
  if (budget.users)
    text << "the longest context of " << grouped(*budget.users)
         << (*budget.users == 1 ? " user" : " users at once") << ", up to " << grouped(c.context) << "\n";
  else
    text << "the most users at once of " << grouped(c.context) << " tokens each\n";
  text << "\n" << std::string(30, ' ') << "         users        tokens each        they take\n";
  for (const Fit& f : fits(c, budget))
    text << std::left << std::setw(30) << f.label << std::right << std::setw(14) << grouped(f.users)
         << std::setw(19) << grouped(f.context) << std::setw(17) << scaled(f.bytes) << "\n";
  return text.str();
}

inline nlohmann::ordered_json capacity_json(const Case& c, const Budget& budget) {
  nlohmann::ordered_json object = {
      {"name", c.name},          {"dtype", c.dtype},          {"placement", budget.placement},
      {"budget", budget.memory}, {"weights", budget.weights}, {"fits", nlohmann::ordered_json::array()}};
  for (const Fit& f : fits(c, budget))
    object["fits"].push_back(
        {{"kind", f.label}, {"users", f.users}, {"context", f.context}, {"bytes", f.bytes}});
  return object;
}

}  // namespace cache_size
