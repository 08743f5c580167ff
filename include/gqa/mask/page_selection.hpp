// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>

#include "gqa/core/extent.hpp"
#include "gqa/mask/bitmap.hpp"

namespace gqa {

/// The pages of keys that each KV head reads, as a mask: `page_tokens` positions a page, the same for all
/// queries. Query head h reads what KV head h / (H / G) does. What no head reads is never visited. A copy
/// shares the table.
class PageSelection {
 public:
  /// The pages of one KV head.
  class Plane {
   public:
    bool operator()(Index, Index kv_pos) const {
      return kv_pos >= 0 && kv_pos / page_ < pages_->columns() && (*pages_)(row_, kv_pos / page_);
    }
    Coverage coverage(Range q, Range kv) const {
      if (q.empty() || kv.empty()) return Coverage::none;
      const Range all = {kv.begin / page_, ceil_div(kv.end, page_)};
      const Range there = intersect(all, {0, pages_->columns()});
      const Index set = there.empty() ? 0 : pages_->count(row_, there);
      return set == 0 ? Coverage::none : set == all.size() ? Coverage::full : Coverage::partial;
    }
    Range bounds(Range) const {
      const Range hull = pages_->hull(row_);
      return {hull.begin * page_, hull.end * page_};
    }
    Range next_visible(Range, Index from) const {
      const Range run = pages_->next_run({row_, row_ + 1}, from / page_);
      if (run.empty()) return {max_position, max_position};
      return {std::max(run.begin * page_, from), run.end * page_};
    }

   private:
    friend class PageSelection;
    Plane(const detail::Bitmap& pages, Index row, Index page) : pages_(&pages), row_(row), page_(page) {}

    const detail::Bitmap* pages_;
    Index row_, page_;
  };

  /// No page yet. Throws std::invalid_argument for sizes below 1 (`num_pages` below 0), and H that is no
  /// multiple of G.
  PageSelection(Index num_q_heads, Index num_kv_heads, Index num_pages, Index page_tokens)
      : num_q_heads_(num_q_heads), page_tokens_(page_tokens) {
    GQA_CHECK(num_kv_heads >= 1 && num_pages >= 0 && page_tokens >= 1, std::invalid_argument,
              "pages: " << num_kv_heads << " KV heads x " << num_pages << " pages of " << page_tokens
                        << " tokens, expected at least 1 x 0 of 1");
    GQA_CHECK(num_q_heads >= 1 && num_q_heads % num_kv_heads == 0, std::invalid_argument,
              "pages: num_q_heads is " << num_q_heads << ", expected a multiple of the " << num_kv_heads
                                       << " of num_kv_heads");
    checked_mul(num_pages, page_tokens, "pages");
    pages_ = std::make_shared<detail::Bitmap>(num_kv_heads, num_pages, "pages");
  }

  /// Lets a KV head read a page. Throws std::out_of_range.
  void add(Index kv_head, Index page) {
    check_place(kv_head, page);
    if (pages_.use_count() > 1) pages_ = std::make_shared<detail::Bitmap>(*pages_);
    pages_->set(kv_head, page);
  }
  /// Throws std::out_of_range.
  bool contains(Index kv_head, Index page) const {
    check_place(kv_head, page);
    return (*pages_)(kv_head, page);
  }

  /// Bit j says whether a KV head reads page `first_page` + j, for the 64 from there on.
  std::uint64_t bits(Index kv_head, Index first_page) const { return pages_->bits(kv_head, first_page, 64); }

  Index num_kv_heads() const { return pages_->rows(); }
  Index num_pages() const { return pages_->columns(); }
  Index page_tokens() const { return page_tokens_; }
  /// How many pages a KV head reads. Throws std::out_of_range.
  Index count(Index kv_head) const {
    if (num_pages() == 0) return 0;
    check_place(kv_head, 0);
    return pages_->count(kv_head, {0, num_pages()});
  }

  Plane at(Index, Index q_head) const {
    return Plane(*pages_, q_head / (num_q_heads_ / num_kv_heads()), page_tokens_);
  }
  static constexpr bool varies_by_seq() { return false; }
  static constexpr HeadVariation varies_by_head() { return HeadVariation::by_kv_head; }

  void check(const AttentionExtent& extent) const {
    GQA_CHECK(extent.num_q_heads == num_q_heads_, std::invalid_argument,
              "pages: selected for " << num_q_heads_ << " query heads, expected " << extent.num_q_heads);
  }

 private:
  void check_place(Index kv_head, Index page) const {
    GQA_CHECK(kv_head >= 0 && kv_head < num_kv_heads() && page >= 0 && page < num_pages(), std::out_of_range,
              "pages: page " << page << " of KV head " << kv_head << ", expected less than " << num_pages()
                             << " and " << num_kv_heads());
  }

  Index num_q_heads_, page_tokens_;
  std::shared_ptr<detail::Bitmap> pages_;
};

}  // namespace gqa
