// SPDX-License-Identifier: Apache-2.0
// Which tokens stand in the slots of a layer where each KV head keeps its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/shape.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kv/sequence.hpp"

namespace gqa::detail {

/// How many slots each head keeps. Throws std::invalid_argument unless that is one list a head, as long as
/// each other, of ascending slots that there are.
inline Index checked_kept(std::span<const std::vector<Index>> kept, Index heads, Index slots) {
  GQA_CHECK(std::ssize(kept) == heads, std::invalid_argument,
            "evict: kept has " << kept.size() << " lists, expected one for each of " << heads << " KV heads");
  const Index count = std::ssize(kept[0]);
  GQA_CHECK(count >= 1, std::invalid_argument, "evict: nothing is kept, expected at least 1 slot");
  for (const auto& list : kept) {
    GQA_CHECK(std::ssize(list) == count, std::invalid_argument,
              "evict: heads keep " << count << " and " << list.size() << " slots, expected as many each");
    for (std::size_t i = 0; i < list.size(); ++i)
      GQA_CHECK(list[i] >= 0 && list[i] < slots && (i == 0 || list[i - 1] < list[i]), std::invalid_argument,
                "evict: slot " << list[i] << ", expected ascending ones of the " << slots << " there are");
  }
  return count;
}

/// The same of all layers, `kept[layer][kv_head]`, which keep as many as each other.
inline Index checked_kept(std::span<const std::vector<std::vector<Index>>> kept, Index layers, Index heads,
                          Index slots) {
  GQA_CHECK(std::ssize(kept) == layers, std::invalid_argument,
            "evict: kept has " << kept.size() << " layers, expected " << layers);
  const Index count = checked_kept(kept[0], heads, slots);
  for (const auto& layer : kept) {
    const Index of_layer = checked_kept(layer, heads, slots);
    GQA_CHECK(of_layer == count, std::invalid_argument,
              "evict: layers keep " << count << " and " << of_layer << " slots, expected as many each");
  }
  return count;
}

/// Throws std::out_of_range.
inline void check_slot(Index kv_head, Index heads, Index slot, Index slots) {
  GQA_CHECK(
      kv_head >= 0 && kv_head < heads && slot >= 0 && slot < slots, std::out_of_range,
      "slot " << slot << " of KV head " << kv_head << ", expected less than " << slots << " and " << heads);
}

/// Throws std::invalid_argument unless a cache of `seen` tokens can forget all but the first n: all, or those
/// from `oldest` on, which no eviction has seen.
inline void check_truncation(Index n, Index seen, Index oldest) {
  GQA_CHECK(n >= 0 && n <= seen, std::invalid_argument,
            "truncate: n is " << n << ", expected 0 to the " << seen << " tokens there have been");
  GQA_CHECK(n == 0 || n >= oldest, std::invalid_argument,
            "truncate: n is " << n << ", expected at least " << oldest << ", where tokens were last evicted");
}

/// The positions of a layer's slots. Tokens that no eviction has seen stand behind those that were kept, in
/// order.
struct KeptSlots {
  std::vector<std::vector<Index>> positions = {};  // of each head's first slots; none: slots are positions
  Index first_late = 0;                            // the first position that no eviction has seen

  Index num_kept() const { return positions.empty() ? 0 : std::ssize(positions[0]); }
  /// How far slots stand below positions, behind those that were kept.
  Index evicted() const { return first_late - num_kept(); }
  Range slots_of(Range late) const { return {late.begin - evicted(), late.end - evicted()}; }
  Index position(Index head, Index slot) const {
    if (slot >= num_kept()) return slot + evicted();
    return positions[static_cast<std::size_t>(head)][static_cast<std::size_t>(slot)];
  }

  /// Throws std::invalid_argument unless a span is of tokens that no eviction has seen, of `seen` in all.
  void check_span(const Span& span, std::uint64_t epoch, Index seen) const {
    const Range p = span.positions;
    GQA_CHECK(span.epoch == epoch && p.begin >= first_late && p.begin <= p.end && p.end <= seen,
              std::invalid_argument,
              "span: tokens " << p.begin << " to " << p.end << " are not, or no longer, among the last "
                              << seen - first_late << " of " << seen << " that no eviction has seen");
  }

  /// After some of the slots of `seen` tokens were kept.
  KeptSlots after(std::span<const std::vector<Index>> kept, Index seen) const {
    KeptSlots next{.positions = std::vector<std::vector<Index>>(kept.size()), .first_late = seen};
    for (std::size_t g = 0; g < kept.size(); ++g)
      for (const Index slot : kept[g]) next.positions[g].push_back(position(static_cast<Index>(g), slot));
    return next;
  }
};

/// Copies what each head keeps: `from` slots x heads x dim, `to` as many as are kept x heads x dim.
template <class T>
void copy_kept(std::span<const std::vector<Index>> kept, const TensorView<T>& from, const TensorView<T>& to) {
  for (Index g = 0; g < from.heads; ++g) {
    Index i = 0;
    for (const Index slot : kept[static_cast<std::size_t>(g)])
      std::copy_n(from.at(0, slot, g), from.dim, to.at(0, i++, g));
  }
}

}  // namespace gqa::detail
