// SPDX-License-Identifier: Apache-2.0
// How the pages of a paged cache go from one sequence to others. All of it happens under the cache's lock.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

#include "gqa/kv/paged_state.hpp"

namespace gqa::detail {

/// Gives an empty sequence, whose page table has room, what is published of the first `ids`. Returns how many
/// tokens that is.
template <Scalar T>
Index take_prefix(PagedState<T>& s, PagedSequenceState<T>& sequence, std::span<const TokenId> ids) noexcept {
  const PrefixIndex& index = s.pool.index();
  const auto page_tokens = static_cast<std::size_t>(s.page_tokens());
  ids = ids.first(std::min(ids.size(), static_cast<std::size_t>(s.max_tokens)));
  Index parent = PrefixIndex::none, tokens = 0;
  while (ids.size() >= page_tokens) {
    const Index page = index.find(parent, ids.first(page_tokens));
    if (page == PrefixIndex::none) break;
    s.pool.hold(page);
    sequence.pages.push_back(page);
    parent = page;
    tokens += s.page_tokens();
    ids = ids.subspan(page_tokens);
  }
  const auto part = index.find_part(parent, ids);
  if (part.tokens > 0) {
    s.pool.hold(part.page);  // or its own memory could be what is taken
    if (s.pool.available() > 0) {
      const Index own = s.pool.take();
      s.pool.copy(part.page, own, part.tokens);
      s.pool.forget_from(own, part.tokens);
      sequence.pages.push_back(own);
      tokens += part.tokens;
    }
    s.pool.release(part.page);
  }
  sequence.sequence.set_written(tokens);
  sequence.tokens_for_others = tokens;
  s.pool.note_reuse(tokens);
  return tokens;
}

/// Lets the whole pages of a sequence's first tokens be found by their ids.
template <Scalar T>
void publish(PagedState<T>& s, PagedSequenceState<T>& sequence, std::span<const TokenId> ids) {
  sequence.check_between_passes("publish");
  GQA_CHECK(
      !sequence.evicted, std::invalid_argument,
      "publish: tokens of sequence " << sequence.id.value << " were evicted, the rest is not what ids say");
  GQA_CHECK(static_cast<Index>(ids.size()) <= sequence.sequence.size(), std::invalid_argument,
            "publish: " << ids.size() << " ids, expected at most the " << sequence.sequence.size()
                        << " tokens of sequence " << sequence.id.value);
  const auto page_tokens = static_cast<std::size_t>(s.page_tokens());
  const std::size_t pages = ids.size() / page_tokens;
  const auto ids_of = [&](std::size_t i) { return ids.subspan(i * page_tokens, page_tokens); };
  for (std::size_t i = 0; i < pages; ++i) {
    const Index page = sequence.pages[i];
    GQA_CHECK(!s.pool.index().contains(page) || std::ranges::equal(s.pool.index().ids_of(page), ids_of(i)),
              std::invalid_argument,
              "publish: tokens " << i * page_tokens << " to " << (i + 1) * page_tokens << " of sequence "
                                 << sequence.id.value << " are published with other ids");
  }
  Index parent = PrefixIndex::none;
  for (std::size_t i = 0; i < pages; ++i) {
    Index known = s.pool.index().find(parent, ids_of(i));
    if (known == PrefixIndex::none) {
      known = sequence.pages[i];
      s.pool.publish(known, parent, ids_of(i));
    }
    parent = known;
  }
  sequence.sequence.forget_spans();
}

/// Gives an empty sequence, whose page table has room, all tokens of another. A span of before could be
/// written to what both see from now on: it is no longer valid.
template <Scalar T>
void share(PagedState<T>& s, PagedSequenceState<T>& parent, PagedSequenceState<T>& child) noexcept {
  for (const Index page : parent.pages) {
    s.pool.hold(page);
    child.pages.push_back(page);
  }
  child.sequence.set_written(parent.sequence.size());
  child.tokens_for_others = parent.sequence.size();
  child.evicted = parent.evicted;
  parent.sequence.forget_spans();
}

template <Scalar T>
void reorder(PagedState<T>& s, std::span<const SequenceId> ids, std::span<const Index> parents) {
  GQA_CHECK(ids.size() == parents.size(), std::invalid_argument,
            "reorder: " << parents.size() << " parents, expected one for each of the " << ids.size()
                        << " sequences");
  std::vector<PagedSequenceState<T>*> sequences;
  for (const SequenceId id : ids) {
    sequences.push_back(s.at_locked(id).get());
    sequences.back()->check_between_passes("reorder");
  }
  auto sorted = sequences;
  std::ranges::sort(sorted, std::less());
  const auto twice = std::ranges::adjacent_find(sorted);
  GQA_CHECK(twice == sorted.end(), std::invalid_argument,
            "reorder: sequence " << (*twice)->id.value << " is given twice");
  struct Pages {
    std::vector<Index> pages;
    Index tokens;
    bool evicted;
  };
  std::vector<Pages> after;
  for (const Index parent : parents) {
    GQA_CHECK(parent >= 0 && parent < static_cast<Index>(ids.size()), std::invalid_argument,
              "reorder: parent is " << parent << ", expected less than " << ids.size());
    const PagedSequenceState<T>& from = *sequences[static_cast<std::size_t>(parent)];
    after.push_back({from.pages, from.sequence.size(), from.evicted});
  }
  // From here on nothing throws.
  for (const Pages& a : after)
    for (const Index page : a.pages) s.pool.hold(page);
  for (std::size_t i = 0; i < after.size(); ++i) {
    PagedSequenceState<T>& sequence = *sequences[i];
    s.release_pages(sequence, 0);
    sequence.pages = std::move(after[i].pages);
    sequence.sequence.truncate(0);
    sequence.sequence.set_written(after[i].tokens);
    sequence.tokens_for_others = after[i].tokens;
    sequence.evicted = after[i].evicted;
  }
}

/// Tokens in pages that sequences hold, each page once.
template <Scalar T>
Index tokens_held(const PagedState<T>& s) {
  std::vector<Index> tokens(static_cast<std::size_t>(s.pool.num_pages()));
  for (const auto& [id, sequence] : s.sequences) {
    Index left = sequence->tokens_for_others;
    for (const Index page : sequence->pages) {
      Index& most = tokens[static_cast<std::size_t>(page)];
      most = std::max(most, std::min(left, s.page_tokens()));
      left -= s.page_tokens();
    }
  }
  Index sum = 0;
  for (const Index n : tokens) sum += n;
  return sum;
}

}  // namespace gqa::detail
