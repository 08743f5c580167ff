// SPDX-License-Identifier: Apache-2.0
// How much probability each key has drawn, and which keys to keep by it.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "gqa/inspect/probability_rows.hpp"

namespace gqa {

/// The attention mass of keys: for each KV head and key the sum of the probabilities that the query heads
/// which share it have given, exact column sums in double. One number a key and KV head, however many
/// queries.
///
///     gqa::AttentionMass mass(H, G);
///     const auto add = [&](const gqa::ProbabilityRows& rows) { mass.add(rows); };
///     gqa::for_probabilities(q, cache.layer(i), {}, add, gqa::causal());
///
/// Over the queries of a prefill's end it is what SnapKV looks at; added to at every step, what H2O does.
class AttentionMass {
 public:
  /// Throws std::invalid_argument unless H is a positive multiple of G.
  AttentionMass(Index num_q_heads, Index num_kv_heads)
      : num_q_heads_(num_q_heads), sums_(static_cast<std::size_t>(std::max<Index>(num_kv_heads, 0))) {
    GQA_CHECK(num_kv_heads >= 1 && num_q_heads >= 1 && num_q_heads % num_kv_heads == 0, std::invalid_argument,
              "mass: num_q_heads is " << num_q_heads << ", expected a positive multiple of the "
                                      << num_kv_heads << " of num_kv_heads");
  }

  /// Adds some rows; keys that were not there before begin at 0. Throws std::invalid_argument for another
  /// number of heads and for rows whose first key is not position 0.
  void add(const ProbabilityRows& rows) {
    detail::check_rows("mass", rows, num_q_heads_);
    GQA_CHECK(rows.first_key == 0, std::invalid_argument,
              "mass: the rows begin with key " << rows.first_key << ", expected 0");
    const Index group = num_q_heads_ / num_kv_heads();
    for (std::vector<double>& of_head : sums_)
      of_head.resize(std::max(of_head.size(), static_cast<std::size_t>(rows.num_keys)));
    for (Index t = 0; t < rows.num_tokens; ++t)
      for (Index h = 0; h < num_q_heads_; ++h) {
        const std::span<const float> row = rows.row(t, h);
        std::vector<double>& to = sums_[static_cast<std::size_t>(h / group)];
        for (std::size_t j = 0; j < row.size(); ++j) to[j] += static_cast<double>(row[j]);
      }
  }

  Index num_kv_heads() const { return std::ssize(sums_); }
  Index num_keys() const { return std::ssize(sums_[0]); }
  std::span<const double> of(Index kv_head) const { return sums_[static_cast<std::size_t>(kv_head)]; }

  /// Follows an eviction: the masses of kept slots, in their order.
  void keep(std::span<const std::vector<Index>> kept) {
    GQA_CHECK(std::ssize(kept) == num_kv_heads(), std::invalid_argument,
              "mass: kept has " << kept.size() << " lists, expected " << num_kv_heads());
    std::vector<std::vector<double>> next(sums_.size());
    for (std::size_t g = 0; g < sums_.size(); ++g)
      for (const Index slot : kept[g]) {
        GQA_CHECK(slot >= 0 && slot < num_keys(), std::invalid_argument,
                  "mass: slot " << slot << ", expected less than " << num_keys());
        next[g].push_back(sums_[g][static_cast<std::size_t>(slot)]);
      }
    sums_ = std::move(next);
  }

 private:
  Index num_q_heads_;
  std::vector<std::vector<double>> sums_;  // [kv_head][key]
};

namespace detail {

inline void check_keep(Index keep, Index always, const char* what) {
  GQA_CHECK(always >= 0 && keep >= std::max<Index>(always, 1), std::invalid_argument,
            "keep is " << keep << ", expected at least 1 and the " << always << " of " << what);
}

/// The `keep` slots of the largest scores, the last `recent` among them in any case, ascending.
inline std::vector<Index> best_slots(std::span<const double> scores, Index keep, Index recent) {
  const Index slots = std::ssize(scores), count = std::min(keep, slots);
  const Index older = std::max<Index>(0, slots - recent);
  std::vector<Index> order(static_cast<std::size_t>(older));
  std::iota(order.begin(), order.end(), Index{0});
  const auto before = [&](Index a, Index b) {
    const double x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  const Index chosen = std::max<Index>(0, count - (slots - older));
  std::partial_sort(order.begin(), order.begin() + chosen, order.end(), before);
  order.resize(static_cast<std::size_t>(chosen));
  std::sort(order.begin(), order.end());
  for (Index slot = older; slot < slots; ++slot) order.push_back(slot);
  return order;
}

}  // namespace detail

/// What H2O keeps (Zhang et al. 2023, arXiv 2306.14048): for each KV head the last `recent` slots and, up to
/// `keep` in all, those of the largest mass. All where there are fewer. Throws std::invalid_argument for a
/// keep of 0 or below `recent`.
inline std::vector<std::vector<Index>> heavy_hitters(const AttentionMass& mass, Index keep, Index recent) {
  detail::check_keep(keep, recent, "recent");
  std::vector<std::vector<Index>> kept;
  for (Index g = 0; g < mass.num_kv_heads(); ++g)
    kept.push_back(detail::best_slots(mass.of(g), keep, recent));
  return kept;
}

/// What SnapKV keeps (Li et al. 2024, arXiv 2404.14469) of a prompt, by the mass of its last `window`
/// queries: those tokens and, up to `keep` in all, the others of the largest mass, where each counts for the
/// largest of the `pool` around it (an odd number; 1: itself alone), so that what stands together stays
/// together. Throws std::invalid_argument for a keep of 0 or below the window, and a pool that is even or
/// below 1.
inline std::vector<std::vector<Index>> snap_slots(const AttentionMass& mass, Index keep, Index window,
                                                  Index pool = 7) {
  detail::check_keep(keep, window, "window");
  GQA_CHECK(pool >= 1 && pool % 2 == 1, std::invalid_argument,
            "pool is " << pool << ", expected an odd number");
  std::vector<std::vector<Index>> kept;
  for (Index g = 0; g < mass.num_kv_heads(); ++g) {
    const std::span<const double> sums = mass.of(g);
    std::vector<double> pooled(sums.begin(), sums.end());
    const Index older = std::max<Index>(0, std::ssize(sums) - window);
    for (Index j = 0; j < older; ++j)
      for (Index i = std::max<Index>(0, j - pool / 2); i <= std::min(older - 1, j + pool / 2); ++i)
        pooled[static_cast<std::size_t>(j)] =
            std::max(pooled[static_cast<std::size_t>(j)], sums[static_cast<std::size_t>(i)]);
    kept.push_back(detail::best_slots(pooled, keep, window));
  }
  return kept;
}

/// What StreamingLLM keeps (Xiao et al. 2023, arXiv 2309.17453): the first `sinks` slots and the last, `keep`
/// in all, the same for each KV head. Throws std::invalid_argument for a keep of 0 or below the sinks.
inline std::vector<std::vector<Index>> sinks_and_recent(Index slots, Index num_kv_heads, Index keep,
                                                        Index sinks) {
  detail::check_keep(keep, sinks, "sinks");
  GQA_CHECK(slots >= 0, std::invalid_argument, "slots is " << slots << ", expected at least 0");
  GQA_CHECK(num_kv_heads >= 1, std::invalid_argument,
            "num_kv_heads is " << num_kv_heads << ", expected at least 1");
  std::vector<Index> list;
  for (Index slot = 0; slot < slots; ++slot)
    if (slot < sinks || slot >= slots - (keep - sinks)) list.push_back(slot);
  return std::vector<std::vector<Index>>(static_cast<std::size_t>(num_kv_heads), list);
}

}  // namespace gqa
