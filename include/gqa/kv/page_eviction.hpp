// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "gqa/kv/kept_slots.hpp"
#include "gqa/kv/paged_state.hpp"

namespace gqa::detail {

/// Keeps some tokens of a sequence in pages, `kept[layer][kv_head]` those of a head, as many everywhere: they
/// move to the front, and the pages of the others go back to the pool. Pages that somebody else sees are left
/// to them. Throws before anything has changed.
template <Scalar T>
void evict(PagedState<T>& s, PagedSequenceState<T>& sequence,
           std::span<const std::vector<std::vector<Index>>> kept) {
  sequence.check_between_passes("evict");
  const CacheShape& shape = s.pool.shape();
  const Index slots = sequence.sequence.size(), heads = shape.num_kv_heads;
  const Index count = checked_kept(kept, shape.num_layers, heads, slots);

  // All that is kept has left its pages before one is written to.
  struct Tokens {
    std::vector<T> elements;
    TensorView<T> view;

    Tokens(Index tokens, Index num_heads, Index dim)
        : elements(
              static_cast<std::size_t>(checked_mul(checked_mul(tokens, num_heads, "evict"), dim, "evict"))),
          view(elements.data(), tokens, num_heads, dim) {}
  };
  std::vector<Tokens> keys, values;
  {
    const Tokens k(slots, heads, shape.head_dim), v(slots, heads, shape.value_dim);
    for (Index i = 0; i < shape.num_layers; ++i) {
      s.read(sequence, i, {0, slots}, k.view, v.view);
      copy_kept(kept[static_cast<std::size_t>(i)], k.view,
                keys.emplace_back(count, heads, shape.head_dim).view);
      copy_kept(kept[static_cast<std::size_t>(i)], v.view,
                values.emplace_back(count, heads, shape.value_dim).view);
    }
  }
  const auto& kernels = simd::kernels<T>(isa());
  const auto wanted = static_cast<std::size_t>(ceil_div(count, s.page_tokens()));
  std::vector<Index> own, others;
  own.reserve(std::max(wanted, sequence.pages.size()));
  others.reserve(sequence.pages.size());
  {
    const std::lock_guard lock(s.mutex);
    for (const Index page : sequence.pages) (s.pool.is_shared(page) ? others : own).push_back(page);
    // Those that are only kept for their contents may be what is taken.
    for (const Index page : others) s.pool.release(page);
    try {
      if (own.size() < wanted) s.check_pages("evict", static_cast<Index>(wanted - own.size()));
    } catch (...) {
      for (const Index page : others) s.pool.hold(page);
      throw;
    }
    while (own.size() < wanted) own.push_back(s.pool.take());
    for (; own.size() > wanted; own.pop_back()) s.pool.release(own.back());
    sequence.pages.swap(own);
    sequence.tokens_for_others = count;
    sequence.sequence.clear();
    sequence.evicted = true;
  }
  for (const Index page : sequence.pages) s.pool.forget_from(page, 0);
  for (Index i = 0; i < shape.num_layers; ++i)
    store_tokens(
        s.pool.blocks(), [&](Index head, Index tile) { return s.block_at(sequence, i, head, tile); },
        Range{0, count}, TensorView<const T>(keys[static_cast<std::size_t>(i)].view),
        TensorView<const T>(values[static_cast<std::size_t>(i)].view), 0, kernels);
  sequence.sequence.set_written(count);
}

}  // namespace gqa::detail
