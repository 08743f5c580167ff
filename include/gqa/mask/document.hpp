// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <memory>
#include <span>
#include <vector>

#include "gqa/mask/interval_mask.hpp"

namespace gqa {

/// Packed documents: a query sees its own, both ways. A copy shares the table.
class Documents : public IntervalMask<Documents> {
 public:
  /// `ids[p]` is the document of position p.
  template <std::integral Id>
  explicit Documents(std::span<const Id> ids) {
    const Index n = static_cast<Index>(ids.size());
    std::vector<Range> documents(ids.size());
    for (Index begin = 0, end = 0; begin < n; begin = end) {
      const Id id = ids[static_cast<std::size_t>(begin)];
      while (end < n && ids[static_cast<std::size_t>(end)] == id) ++end;
      GQA_CHECK(end == n || id < ids[static_cast<std::size_t>(end)], std::invalid_argument,
                "document: ids[" << end << "] is " << +ids[static_cast<std::size_t>(end)]
                                 << ", expected at least ids[" << end - 1 << "] = " << +id
                                 << ": ids must be sorted");
      std::fill(documents.begin() + begin, documents.begin() + end, Range{begin, end});
    }
    documents_ = std::make_shared<const std::vector<Range>>(std::move(documents));
  }

  /// The document of a query; a position outside the table is in none.
  Range visible(Index q_pos) const {
    const Index n = static_cast<Index>(documents_->size());
    if (q_pos < 0) return {0, 0};
    if (q_pos >= n) return {n, n};
    return (*documents_)[static_cast<std::size_t>(q_pos)];
  }

  void check(const AttentionExtent& extent) const {
    const Index needed = std::max(extent.q.end, extent.kv.end);
    GQA_CHECK(needed <= static_cast<Index>(documents_->size()), std::invalid_argument,
              "document: ids has " << documents_->size() << " positions, expected at least " << needed);
  }

 private:
  std::shared_ptr<const std::vector<Range>> documents_;
};

/// `ids[q_pos] == ids[kv_pos]` for packed sequences; compose with causal() for a decoder. `ids` is a range of
/// integers, one a position, sorted so that each document is one piece: throws std::invalid_argument if not.
template <class Ids>
requires std::convertible_to<const Ids&, std::span<const typename Ids::value_type>> Documents
document(const Ids& ids) {
  return Documents(std::span<const typename Ids::value_type>(ids));
}

template <std::integral Id>
Documents document(std::initializer_list<Id> ids) {
  return Documents(std::span<const Id>(ids.begin(), ids.size()));
}

}  // namespace gqa
