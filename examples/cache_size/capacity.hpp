// SPDX-License-Identifier: Apache-2.0
// How much fits in a machine's memory: the library's planner asked for a model, as it is and with other
// heads.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "gqa/plan/capacity.hpp"
#include "report.hpp"

namespace cache_size {

/// What memory there is, and for whom.
struct Budget {
  Index memory = 0;                   ///< bytes of all
  Index weights = 0;                  ///< of those, for the model's weights
  std::string weights_text = {};      ///< how that is known
  std::optional<Index> users = {};    ///< sequences at once: how long may they be
  std::optional<Index> context = {};  ///< tokens of each: how many are there
  std::string placement = {};         ///< contiguous, paged or hybrid; none: as the model's layers are
  Index page_tokens = 64, shared_tokens = 0;
  Index max_span = 512;

  Index for_cache() const {
    GQA_CHECK(memory >= weights, std::invalid_argument,
              "budget is " << scaled(memory) << ", less than the weights' " << scaled(weights));
    return memory - weights;
  }
};

/// What a model is kept in unless another placement is asked for.
inline std::string placement_of(const Shape& s, const Budget& budget) {
  return !budget.placement.empty() ? budget.placement : s.local_layers > 0 ? "hybrid" : "contiguous";
}

inline gqa::CachePlan plan_of(const Shape& s, const Budget& budget) {
  using gqa::CacheLayer, gqa::CachePlacement;
  const std::string placement = placement_of(s, budget);
  GQA_CHECK(s.layers <= most_layers, std::invalid_argument,
            "layers is " << s.layers << ", expected at most " << most_layers);
  if (s.latent_dim > 0) {
    GQA_CHECK(placement == "contiguous" && budget.shared_tokens == 0, std::invalid_argument,
              "a latent cache is contiguous: leave --placement and --shared-tokens out");
    return gqa::CachePlan(
        {.layers = gqa::uniform_layers(
             s.layers, {.num_kv_heads = 1, .head_dim = s.latent_dim, .value_dim = s.latent_dim}),
         .placement = CachePlacement::latent});
  }
  const bool hybrid = placement == "hybrid";
  GQA_CHECK(hybrid || !s.layers_differ(), std::invalid_argument,
            "the layers keep different heads, which --placement hybrid is for");
  CacheLayer layer{.num_kv_heads = s.kv_heads, .head_dim = s.head_dim, .value_dim = s.value_dim};
  std::vector<CacheLayer> layers = gqa::uniform_layers(s.layers, layer);
  if (hybrid) {
    layer.num_kv_heads = s.kv_heads_of_local();
    if (s.local_head_dim > 0) layer.head_dim = layer.value_dim = s.local_head_dim;
    layer.window = s.window;
    std::fill_n(layers.begin(), s.local_layers, layer);
  }
  return gqa::CachePlan({.layers = std::move(layers),
                         .placement = hybrid                 ? CachePlacement::hybrid
                                      : placement == "paged" ? CachePlacement::paged
                                                             : CachePlacement::contiguous,
                         .page_tokens = budget.page_tokens,
                         .shared_tokens = budget.shared_tokens,
                         .max_span = hybrid ? budget.max_span : 1});
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

/// One way to keep a model's keys and values.
struct Variant {
  std::string label;
  Shape shape;
  Budget budget;
};

/// The model as MHA, as it is, and as MQA; then as GQA with 8 KV heads and as MLA, where it is neither. An
/// MLA that has not been is as large as DeepSeek's to its heads; pages are none for it.
inline std::vector<Variant> variants(const Case& c, Budget budget) {
  const Shape& s = c.shape;
  budget.placement = placement_of(s, budget);
  const std::string kind_of = kind(s);
  const std::string as_it_is = s.latent_dim > 0 ? "MLA, " + grouped(s.latent_dim) + " elements"
                                                : kind_of + ", " + kv_heads_text(s.kv_heads);
  std::vector<Variant> all = {{"MHA, " + kv_heads_text(s.q_heads), c.mha(), budget},
                              {"this: " + as_it_is, s, budget},
                              {"MQA, " + kv_heads_text(1), c.mqa(), budget}};
  if (kind_of != "GQA" && s.q_heads > 8 && s.q_heads % 8 == 0)
    all.push_back({"GQA, " + kv_heads_text(8), with_kv_heads(s, 8), budget});
  if (s.latent_dim == 0 && budget.placement != "paged" && s.head_dim % 2 == 0) {
    budget.placement = "contiguous";
    const Shape latent = with_latent(s);
    all.push_back({"MLA, " + grouped(latent.latent_dim) + " elements", latent, budget});
  }
  return all;
}

inline std::vector<Fit> fits(const Case& c, const Budget& budget) {
  std::vector<Fit> all;
  for (const Variant& each : variants(c, budget)) all.push_back(fit(each.label, each.shape, c, each.budget));
  return all;
}

/// "11.0x", of what MHA has; nothing where that has none.
inline std::string times_mha(Index n, Index mha) {
  return mha > 0 ? fixed(static_cast<double>(n) / static_cast<double>(mha), 1) + "x" : "-";
}

inline std::string capacity_text(const Case& c, const Budget& budget) {
  std::ostringstream text;
  text << c.name << " in " << c.dtype << ": " << scaled(budget.for_cache()) << " for keys and values of "
       << scaled(budget.memory) << ", " << placement_of(c.shape, budget) << "\n";
  text << "weights: " << budget.weights_text << "\n";
  if (budget.users)
    text << "the longest context of " << grouped(*budget.users)
         << (*budget.users == 1 ? " user" : " users at once") << ", up to " << grouped(c.context) << "\n";
  else
    text << "the most users at once of " << grouped(c.context) << " tokens each\n";
  const std::vector<Fit> all = fits(c, budget);
  text << "\n" << std::string(30, ' ') << "         users        tokens each        they take   of MHA\n";
  for (const Fit& f : all)
    text << std::left << std::setw(30) << f.label << std::right << std::setw(14) << grouped(f.users)
         << std::setw(19) << grouped(f.context) << std::setw(17) << scaled(f.bytes) << std::setw(9)
         << (budget.users ? times_mha(f.context, all.front().context) : times_mha(f.users, all.front().users))
         << "\n";
  if (c.shape.latent_dim == 0 && placement_of(c.shape, budget) != "paged")
    text << "\nMLA is one whose latent is to the heads as DeepSeek's is, 4.5 of them; this model has none.\n";
  return text.str();
}

inline nlohmann::ordered_json capacity_json(const Case& c, const Budget& budget) {
  nlohmann::ordered_json object = {{"name", c.name},
                                   {"dtype", c.dtype},
                                   {"placement", placement_of(c.shape, budget)},
                                   {"budget", budget.memory},
                                   {"weights", budget.weights},
                                   {"weights_are", budget.weights_text},
                                   {"fits", nlohmann::ordered_json::array()}};
  for (const Fit& f : fits(c, budget))
    object["fits"].push_back(
        {{"kind", f.label}, {"users", f.users}, {"context", f.context}, {"bytes", f.bytes}});
  return object;
}

}  // namespace cache_size
