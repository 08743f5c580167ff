// SPDX-License-Identifier: Apache-2.0
// What each number of KV heads costs, and which of them no other one beats.
#pragma once

#include <algorithm>
#include <functional>
#include <gqa/plan/cache_plan.hpp>
#include <gqa/plan/cost.hpp>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace choose_groups {

using gqa::Index;

/// A model's attention and what it is used for.
struct Use {
  Index layers = 1, heads = 0, head_dim = 0;
  Index value_dim = gqa::Dynamic;
  Index context = 0;  ///< tokens of each sequence
  Index batch = 1;    ///< sequences at once
  std::string dtype = "bf16";
};

/// One number of KV heads.
struct Choice {
  Index kv_heads = 1;
  Index bytes = 0;                     ///< of the caches of all layers and sequences
  double decode = 0;                   ///< seconds of attention in all layers for a token of every sequence
  double prefill = 0;                  ///< the same for all tokens of every sequence
  std::optional<double> loss = {};     ///< by the figures of quality; none: they say nothing of it
  bool guessed = false;                ///< the loss lies beyond the figures
  bool on_front = false, fits = true;  ///< nothing beats it; it keeps within what is asked for
};

/// What is asked for; what is not given is any.
struct Limits {
  static constexpr double none = std::numeric_limits<double>::infinity();
  Index bytes = std::numeric_limits<Index>::max();
  double decode = none, loss = none;
};

/// Calls f.operator()<T>() for the type of that name.
template <class F>
auto with_scalar(const std::string& dtype, F&& f) {
  if (dtype == "f32") return f.template operator()<float>();
  if (dtype == "f16") return f.template operator()<gqa::half>();
  GQA_CHECK(dtype == "bf16", std::invalid_argument, "dtype is '" << dtype << "', expected f32, f16 or bf16");
  return f.template operator()<gqa::bfloat16>();
}

/// Every number of KV heads that divides the query heads, fewest first, without a loss.
inline std::vector<Choice> choices_of(const Use& use, const gqa::CostRates& rates) {
  std::vector<Choice> choices;
  for (Index kv_heads = 1; kv_heads <= use.heads; ++kv_heads) {
    if (use.heads % kv_heads != 0) continue;
    const gqa::CachePlan plan(
        {.layers = gqa::uniform_layers(
             use.layers, {.num_kv_heads = kv_heads, .head_dim = use.head_dim, .value_dim = use.value_dim})});
    Choice choice{.kv_heads = kv_heads};
    choice.bytes = with_scalar(use.dtype, [&]<class T>() { return plan.bytes<T>(use.context, use.batch); });
    gqa::CallShape shape{.num_q_heads = use.heads,
                         .num_kv_heads = kv_heads,
                         .head_dim = use.head_dim,
                         .value_dim = use.value_dim,
                         .kv_tokens = use.context,
                         .num_seqs = use.batch};
    const auto layers = static_cast<double>(use.layers);
    const gqa::KVPlace all_layers{.footprint = static_cast<double>(choice.bytes)};
    // A token goes through the caches of all layers before it comes to the first one again.
    choice.decode = layers * predicted_seconds(rates, shape, all_layers);
    shape.q_tokens = use.context;
    choice.prefill = layers * predicted_seconds(rates, shape, all_layers);
    choices.push_back(choice);
  }
  return choices;
}

/// Marks the Pareto set of memory, time and loss: what no other one of it is as good as in all of them.
/// Losses that differ by no more than `same_loss` are as good: of such, the one with the fewest KV heads
/// stays. Those without a loss are compared by memory and time alone. `choices` are in ascending order of KV
/// heads, and so of memory.
inline void mark_front(std::vector<Choice>& choices, double same_loss) {
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const auto beats = [&](const Choice& a, const Choice& b) {
      const bool as_good = !a.loss || !b.loss ? !b.loss : *a.loss <= *b.loss + same_loss;
      return as_good && a.bytes <= b.bytes && a.decode <= b.decode && a.prefill <= b.prefill;
    };
    choices[i].on_front = std::none_of(choices.begin(), choices.begin() + static_cast<Index>(i),
                                       [&](const Choice& a) { return a.on_front && beats(a, choices[i]); });
  }
}

inline void mark_fits(std::vector<Choice>& choices, const Limits& limits) {
  for (Choice& c : choices)
    c.fits = c.bytes <= limits.bytes && c.decode <= limits.decode &&
             (limits.loss == Limits::none || (c.loss && *c.loss <= limits.loss));
}

/// The one of the front with the least loss that fits, if any does.
inline const Choice* best_of(const std::vector<Choice>& choices) {
  const Choice* best = nullptr;
  for (const Choice& c : choices)
    if (c.on_front && c.fits && c.loss && (best == nullptr || *c.loss < *best->loss)) best = &c;
  return best;
}

}  // namespace choose_groups
