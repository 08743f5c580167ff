// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "gqa/core/shape.hpp"

namespace gqa {

/// A token of a model's vocabulary.
using TokenId = std::int32_t;

namespace detail {

/// Which pages hold the keys and values of which token ids. A page's keys and values depend on all tokens
/// before it, so pages form a tree: one is known by its parent and its own ids. Found by a hash, verified by
/// equality. All memory is taken at once: adding and removing cannot fail.
class PrefixIndex {
 public:
  static constexpr Index none = -1;

  PrefixIndex(Index num_pages, Index page_tokens)
      : page_tokens_(page_tokens),
        nodes_(static_cast<std::size_t>(num_pages) + 1),
        ids_(static_cast<std::size_t>(checked_mul(num_pages, page_tokens, "pages"))),
        buckets_(std::bit_ceil(static_cast<std::size_t>(2 * num_pages + 1)), none) {}

  bool contains(Index page) const { return node(page).known; }

  /// Of a page that is known.
  std::span<const TokenId> ids_of(Index page) const {
    return {ids_.data() + page * page_tokens_, static_cast<std::size_t>(page_tokens_)};
  }

  /// The page that holds these ids behind the page `parent` (none: at the beginning of a sequence), or none.
  Index find(Index parent, std::span<const TokenId> ids) const {
    for (Index page = buckets_[bucket(parent, ids)]; page != none; page = node(page).next_in_bucket)
      if (node(page).parent == parent && std::ranges::equal(ids_of(page), ids)) return page;
    return none;
  }

  struct Part {
    Index page = none;
    Index tokens = 0;
  };
  /// The page behind `parent` that begins with the most of these ids.
  Part find_part(Index parent, std::span<const TokenId> ids) const {
    Part best;
    for (Index page = node(parent).first_child; page != none; page = node(page).next_sibling) {
      const auto mine = ids_of(page);
      const Index common = std::ranges::mismatch(mine, ids).in1 - mine.begin();
      if (common > best.tokens) best = {page, common};
    }
    return best;
  }

  /// Adds a page that is not known, behind one that is, or at the beginning.
  void add(Index page, Index parent, std::span<const TokenId> ids) noexcept {
    Node& n = node(page);
    std::ranges::copy(ids, ids_.begin() + page * page_tokens_);
    n.known = true;
    n.parent = parent;
    n.bucket = bucket(parent, ids);
    n.next_in_bucket = buckets_[n.bucket];
    buckets_[n.bucket] = page;
    n.next_sibling = node(parent).first_child;
    n.previous_sibling = none;
    if (n.next_sibling != none) node(n.next_sibling).previous_sibling = page;
    node(parent).first_child = page;
  }

  /// Forgets a page and all behind it, which could not be found without it. Calls f(page) for each.
  template <class F>
  void remove(Index page, F&& f) noexcept {
    while (node(page).first_child != none) {  // the last of a chain first: no recursion
      Index leaf = node(page).first_child;
      while (node(leaf).first_child != none) leaf = node(leaf).first_child;
      unlink(leaf);
      f(leaf);
    }
    unlink(page);
    f(page);
  }

 private:
  struct Node {
    bool known = false;
    Index parent = none;
    Index first_child = none, next_sibling = none, previous_sibling = none;
    std::size_t bucket = 0;
    Index next_in_bucket = none;
  };

  // Node 0 is the root, of no page.
  Node& node(Index page) { return nodes_[static_cast<std::size_t>(page + 1)]; }
  const Node& node(Index page) const { return nodes_[static_cast<std::size_t>(page + 1)]; }
  /// FNV-1a over the ids, begun by the parent.
  std::size_t bucket(Index parent, std::span<const TokenId> ids) const {
    std::uint64_t hash = 0xcbf29ce484222325u ^ static_cast<std::uint64_t>(parent);
    for (const TokenId id : ids) hash = (hash ^ static_cast<std::uint32_t>(id)) * 0x100000001b3u;
    return static_cast<std::size_t>(hash ^ hash >> 32) & (buckets_.size() - 1);
  }

  void unlink(Index page) noexcept {
    Node& n = node(page);
    Index* link = &buckets_[n.bucket];
    while (*link != page) link = &node(*link).next_in_bucket;
    *link = n.next_in_bucket;
    if (n.previous_sibling != none)
      node(n.previous_sibling).next_sibling = n.next_sibling;
    else
      node(n.parent).first_child = n.next_sibling;
    if (n.next_sibling != none) node(n.next_sibling).previous_sibling = n.previous_sibling;
    n = {};
  }

  Index page_tokens_;
  std::vector<Node> nodes_;
  std::vector<TokenId> ids_;
  std::vector<Index> buckets_;
};

}  // namespace detail

}  // namespace gqa
