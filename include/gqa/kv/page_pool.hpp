// SPDX-License-Identifier: Apache-2.0
// Pages of fixed memory: who holds them, and which are kept for their contents.
#pragma once

#include <cstring>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/core/poison.hpp"
#include "gqa/kv/page_layout.hpp"
#include "gqa/kv/prefix_index.hpp"

namespace gqa {

/// What a pool of pages has come to.
struct PageStatistics {
  Index pages = 0;          ///< there are
  Index used = 0;           ///< held by sequences
  Index shared = 0;         ///< of those, by more than one
  Index kept = 0;           ///< held by nobody, but findable by their tokens until the memory is wanted
  Index free = 0;           ///< the rest
  Index reused_tokens = 0;  ///< so far: tokens that new sequences found
  Index copied = 0;         ///< so far: pages copied as they were to be written and others held them
  Index evicted = 0;        ///< so far: kept pages whose memory was wanted
};

namespace detail {

/// A fixed number of pages of some tiles of tokens. Each is free, held by one or more, or kept: held by
/// nobody, but in the index. Not safe for several threads; no operation on pages can fail.
/// Pages stand one behind the other, each [layer][head]{keys, values}: what processors prefetch beyond a
/// page's keys are its values. (With [layer][head][page] pages with successive numbers are read as one
/// stream, and others take half as long again.)
template <Scalar T>
class PagePool {
 public:
  static constexpr Index none = PrefixIndex::none;

  /// Throws std::bad_alloc, std::length_error where the size overflows.
  PagePool(const CacheShape& shape, Index num_pages, Index page_tiles)
      : layout_(shape, page_tiles),
        memory_(allocate_aligned<T>(
            static_cast<std::size_t>(checked_mul(layout_.bytes(), num_pages, "num_pages")))),
        pages_(static_cast<std::size_t>(num_pages)),
        index_(num_pages, page_tokens()) {
    for (Index p = num_pages; p-- > 0;) push_free(p);
  }
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;
  ~PagePool() { allow_memory(memory_.get(), static_cast<std::size_t>(bytes())); }

  const CacheShape& shape() const { return layout_.shape(); }
  const BlockLayout<T>& blocks() const { return layout_.blocks(); }
  Index page_tiles() const { return layout_.tiles(); }
  Index page_tokens() const { return layout_.tokens(); }
  Index page_bytes() const { return layout_.bytes(); }
  Index bytes() const { return num_pages() * layout_.bytes(); }
  Index bytes_per_token() const { return layout_.bytes_per_token(); }
  const PrefixIndex& index() const { return index_; }
  Index num_pages() const { return static_cast<Index>(pages_.size()); }
  /// One head's part of a tile of a page.
  PackedBlock<T> block_at(Index page, Index layer, Index head, Index tile) const {
    return layout_.block_at(memory(page), layer, head, tile);
  }

  /// How many take() can give.
  Index available() const { return free_ + kept_; }
  /// Whether others see what is written to a page that one holds.
  bool is_shared(Index page) const { return at(page).holders > 1 || index_.contains(page); }

  /// A page of nobody's, to be held by one. The memory of one that is kept is taken where none is free: the
  /// one let go of the longest time ago.
  Index take() noexcept {
    if (first_free_ == none) evict(oldest_);
    const Index page = first_free_;
    first_free_ = at(page).next;
    --free_;
    allow_memory(memory(page), static_cast<std::size_t>(page_bytes()));
    at(page) = {.holders = 1};
    return page;
  }

  void hold(Index page) noexcept {
    if (at(page).holders++ == 0) unlink_kept(page);
  }

  void release(Index page) noexcept {
    if (--at(page).holders > 0) return;
    if (index_.contains(page))
      link_kept(page);
    else
      push_free(page);
  }

  /// Lets a page be found by its tokens, behind `parent`.
  void publish(Index page, Index parent, std::span<const TokenId> ids) noexcept {
    index_.add(page, parent, ids);
  }

  void note_reuse(Index tokens) noexcept { reused_tokens_ += tokens; }
  void note_copy() noexcept { ++copied_; }

  /// Forgets what is kept.
  void drop_kept() noexcept {
    while (oldest_ != none) forget(oldest_);
  }

  /// Calls f(memory, bytes) for each piece of memory that the first tiles of a page are in.
  template <class F>
  void for_parts(Index page, Index tiles, F&& f) const {
    const auto keys = static_cast<std::size_t>(tiles * blocks().key_elements()) * sizeof(T);
    const auto values = static_cast<std::size_t>(tiles * blocks().value_elements()) * sizeof(T);
    for (Index layer = 0; layer < shape().num_layers; ++layer) {
      for (Index head = 0; head < shape().num_kv_heads; ++head) {
        const PackedBlock<T> block = block_at(page, layer, head, 0);
        f(static_cast<void*>(block.k), keys);
        f(static_cast<void*>(block.v), values);
      }
    }
  }

  /// Copies what the first `tokens` of a page take.
  void copy(Index from, Index to, Index tokens) const noexcept {
    const Index apart = memory(to) - memory(from);
    for_parts(from, ceil_div(tokens, tile_keys), [&](void* memory, std::size_t bytes) {
      std::memcpy(static_cast<void*>(static_cast<T*>(memory) + apart), memory, bytes);
    });
  }

  /// Makes token n of a page, and those behind it, ones that are not there.
  void forget_from(Index page, Index n) const noexcept {
    forget_token(blocks(), shape().num_layers, shape().num_kv_heads, n,
                 [&](Index layer, Index head) { return block_at(page, layer, head, n / tile_keys); });
  }

  PageStatistics statistics() const {
    PageStatistics s{.pages = num_pages(),
                     .kept = kept_,
                     .free = free_,
                     .reused_tokens = reused_tokens_,
                     .copied = copied_,
                     .evicted = evicted_};
    for (const Page& page : pages_) {
      s.used += page.holders > 0;
      s.shared += page.holders > 1;
    }
    return s;
  }
  Index bookkeeping_bytes() const {
    return num_pages() * (Index{sizeof(Page)} + 96 + page_tokens() * Index{sizeof(TokenId)});
  }

 private:
  struct Page {
    Index holders = 0;
    Index next = none, previous = none;  // in the free list, or among those kept: from the oldest on
  };
  Page& at(Index page) { return pages_[static_cast<std::size_t>(page)]; }
  const Page& at(Index page) const { return pages_[static_cast<std::size_t>(page)]; }

  void push_free(Index page) noexcept {
    at(page) = {.next = first_free_};
    first_free_ = page;
    ++free_;
    forbid_memory(memory(page), static_cast<std::size_t>(page_bytes()));
  }

  void link_kept(Index page) noexcept {
    at(page).previous = newest_;
    at(page).next = none;
    (newest_ == none ? oldest_ : at(newest_).next) = page;
    newest_ = page;
    ++kept_;
  }
  void unlink_kept(Index page) noexcept {
    Page& p = at(page);
    (p.previous == none ? oldest_ : at(p.previous).next) = p.next;
    (p.next == none ? newest_ : at(p.next).previous) = p.previous;
    --kept_;
  }

  void evict(Index page) noexcept {
    ++evicted_;
    forget(page);
  }
  /// Takes a page and those behind it out of the index; those that nobody holds are free then.
  void forget(Index page) noexcept {
    index_.remove(page, [&](Index gone) {
      if (at(gone).holders > 0) return;
      unlink_kept(gone);
      push_free(gone);
    });
  }

  T* memory(Index page) const { return memory_.get() + page * layout_.elements(); }

  PageLayout<T> layout_;  // of a page
  AlignedArray<T> memory_;
  std::vector<Page> pages_;
  PrefixIndex index_;
  Index first_free_ = none, free_ = 0;
  Index oldest_ = none, newest_ = none, kept_ = 0;
  Index reused_tokens_ = 0, copied_ = 0, evicted_ = 0;
};

}  // namespace detail

}  // namespace gqa
