// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "gqa/kv/paged_state.hpp"
#include "kv/pool_model.hpp"

namespace gqa::test {

/// What a paged cache should hold: of each sequence its token ids, how many of them each layer has, and its
/// pages; and what operations that change pages' hands make of them.
class PagedContents {
 public:
  explicit PagedContents(Index page_tokens) : page_tokens_(page_tokens), pool_(8 * 64 / page_tokens + 1) {}

 protected:
  static constexpr std::size_t most_sequences = 6;
  static constexpr Index layers = 2, max_tokens = 400;
  static constexpr detail::LayerShape shape{2, 3, 1};

  struct Known {
    Span span;
    bool valid;
  };
  struct Sequence {
    SequenceId id;
    std::vector<TokenId> ids = {};
    std::array<Index, layers> written = {};
    std::vector<PoolModel::PagePtr> pages = {};
    std::optional<std::vector<std::byte>> swapped = {};
    std::vector<Known> spans = {};
    bool evicted = false;
    Index not_cleared = -1;  // what stands there others see: it was forgotten, but stays
  };
  static Index size(const Sequence& s) { return std::ssize(s.ids); }
  static Index written(const Sequence& s, Index layer) { return s.written[static_cast<std::size_t>(layer)]; }
  static bool between_passes(const Sequence& s) {
    return !s.swapped && std::ranges::all_of(s.written, [&](Index n) { return n == size(s); });
  }
  /// A number for each token that follows from all ids up to it, as a model's keys and values do.
  static std::vector<int> numbers_of(std::span<const TokenId> ids) {
    std::vector<int> numbers;
    std::uint32_t hash = 17;
    for (const TokenId id : ids) {
      hash = (hash ^ static_cast<std::uint32_t>(id + 1)) * 0x9e3779b1u;
      hash ^= hash >> 15;
      numbers.push_back(static_cast<int>(hash >> 12));
    }
    return numbers;
  }
  Index pages_of(Index tokens) const { return ceil_div(tokens, page_tokens_); }

  static bool is_shared(const PoolModel::PagePtr& page) { return page->holders > 1 || page->published; }
  static void forget_spans(Sequence& s) {
    for (Known& each : s.spans) each.valid = false;
  }
  void release_pages(Sequence& s, Index from) {
    while (std::ssize(s.pages) > from) {
      pool_.release(s.pages.back());
      s.pages.pop_back();
    }
  }
  static void set_ids(Sequence& s, const std::vector<TokenId>& ids) {
    s.ids = ids;
    s.written.fill(size(s));
    s.not_cleared = -1;
    s.evicted = false;
    forget_spans(s);
  }

  /// The first pages of a sequence are found by these ids from now on.
  void note_published(Sequence& s, std::span<const TokenId> ids) {
    const auto page_tokens = static_cast<std::size_t>(page_tokens_);
    PoolModel::PagePtr parent;
    for (std::size_t i = 0; i < ids.size() / page_tokens; ++i) {
      const auto of_page = ids.subspan(i * page_tokens, page_tokens);
      auto known = pool_.find(parent, of_page);
      if (known == nullptr) pool_.publish(known = s.pages[i], parent, of_page);
      parent = known;
    }
    forget_spans(s);
  }

  /// A new sequence with what is published of these ids.
  Sequence found(SequenceId id, std::vector<TokenId> ids) {
    Sequence like{.id = id};
    auto rest = std::span<const TokenId>(ids);
    const auto page_tokens = static_cast<std::size_t>(page_tokens_);
    if (rest.size() > max_tokens) rest = rest.first(max_tokens);
    PoolModel::PagePtr parent;
    Index tokens = 0;
    while (rest.size() >= page_tokens) {
      const auto page = pool_.find(parent, rest.first(page_tokens));
      if (page == nullptr) break;
      pool_.hold(page);
      like.pages.push_back(parent = page);
      rest = rest.subspan(page_tokens);
      tokens += page_tokens_;
    }
    if (const auto [part, common] = pool_.find_part(parent, rest); common > 0) {
      pool_.hold(part);
      if (pool_.available() > 0) {
        like.pages.push_back(pool_.take());
        tokens += common;
      }
      pool_.release(part);
    }
    pool_.reused_tokens += tokens;
    ids.resize(static_cast<std::size_t>(tokens));
    set_ids(like, ids);
    return like;
  }

  void note_reordered(std::span<const SequenceId> ids, std::span<const Index> parents) {
    std::vector<Sequence> before;
    std::vector<Sequence*> after;
    for (const SequenceId id : ids) {
      after.push_back(&*std::ranges::find(sequences_, id, &Sequence::id));
      before.push_back(*after.back());
    }
    const auto parent_of = [&](std::size_t i) -> const Sequence& {
      return before[static_cast<std::size_t>(parents[i])];
    };
    for (std::size_t i = 0; i < ids.size(); ++i)
      for (const auto& page : parent_of(i).pages) pool_.hold(page);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      release_pages(*after[i], 0);
      after[i]->pages = parent_of(i).pages;
      set_ids(*after[i], parent_of(i).ids);
      after[i]->not_cleared = parent_of(i).not_cleared;
      after[i]->evicted = parent_of(i).evicted;
    }
  }

  Index page_tokens_;
  PoolModel pool_;
  std::vector<Sequence> sequences_;
};

}  // namespace gqa::test
