// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "gqa/kv/prefix_index.hpp"
#include "kv/operations.hpp"

namespace gqa::test {

/// What a pool of pages should have come to: who holds which page, which are published and which kept, as
/// plain lists.
class PoolModel {
 public:
  struct Page {
    int holders = 0;
    bool published = false;
    std::shared_ptr<Page> parent = nullptr;
    std::vector<TokenId> ids = {};  // where it is published
  };
  using PagePtr = std::shared_ptr<Page>;

  explicit PoolModel(Index num_pages) : free(num_pages) {}

  Index free, used = 0, reused_tokens = 0, copied = 0, evicted = 0;
  std::vector<PagePtr> kept;       // those let go of first come first
  std::vector<PagePtr> published;  // in that order

  Index available() const { return free + std::ssize(kept); }

  PagePtr take() {
    if (free == 0) {
      ++evicted;
      forget(kept.front());
    }
    --free;
    ++used;
    return std::make_shared<Page>(Page{.holders = 1});
  }
  void hold(const PagePtr& page) {
    if (page->holders++ > 0) return;
    ++used;
    std::erase(kept, page);
  }
  void release(const PagePtr& page) {
    if (--page->holders > 0) return;
    --used;
    if (page->published)
      kept.push_back(page);
    else
      ++free;
  }
  void drop_kept() {
    while (!kept.empty()) forget(kept.front());
  }

  PagePtr find(const PagePtr& parent, std::span<const TokenId> ids) const {
    for (const PagePtr& page : published)
      if (page->parent == parent && std::ranges::equal(page->ids, ids)) return page;
    return nullptr;
  }
  /// The one behind `parent` that begins with the most of these ids, and how many: the last that was
  /// published where several do. (Of one that nobody holds the memory cannot be what is taken.)
  std::pair<PagePtr, Index> find_part(const PagePtr& parent, std::span<const TokenId> ids) const {
    std::pair<PagePtr, Index> best{nullptr, 0};
    for (auto page = published.rbegin(); page != published.rend(); ++page) {
      if ((*page)->parent != parent) continue;
      const Index common = std::ranges::mismatch((*page)->ids, ids).in1 - (*page)->ids.begin();
      if (common > best.second) best = {*page, common};
    }
    return best;
  }
  void publish(const PagePtr& page, const PagePtr& parent, std::span<const TokenId> ids) {
    page->published = true;
    page->parent = parent;
    page->ids.assign(ids.begin(), ids.end());
    published.push_back(page);
  }

 private:
  /// And all behind it.
  void forget(PagePtr page) {
    for (std::size_t i = published.size(); i-- > 0;)
      if (i < published.size() && published[i]->parent == page) forget(published[i]);
    page->published = false;
    page->parent = nullptr;
    std::erase(published, page);
    if (page->holders > 0) return;
    std::erase(kept, page);
    ++free;
  }
};

}  // namespace gqa::test
