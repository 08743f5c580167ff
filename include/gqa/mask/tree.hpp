// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "gqa/mask/bitmap.hpp"
#include "gqa/mask/window.hpp"

namespace gqa {

/// Draft tokens that branch: a node sees the tokens before the tree, its ancestors and itself. Positions
/// before the tree are causal. A copy shares the table.
class Tree {
 public:
  /// From max_position on, no node has a position that a query or key can have.
  Tree(std::span<const Index> parents, Index first_position)
      : first_(std::min(first_position, max_position)) {
    const Index n = static_cast<Index>(parents.size());
    GQA_CHECK(first_position >= 0, std::invalid_argument,
              "tree: first_position is " << first_position << ", expected at least 0");
    detail::Bitmap ancestors(n, n, "tree");
    for (Index node = 0; node < n; ++node) {
      const Index parent = parents[static_cast<std::size_t>(node)];
      GQA_CHECK(
          parent >= -1 && parent < n, std::invalid_argument,
          "tree: parents[" << node << "] is " << parent << ", expected -1 or a node in [0, " << n << ")");
      GQA_CHECK(parent < node, std::invalid_argument,
                "tree: parents[" << node << "] is " << parent
                                 << ", expected a node before it: a parent may not come after its child, nor "
                                    "nodes form a cycle");
      if (parent >= 0) ancestors.merge_row(node, parent);
      ancestors.set(node, node);
    }
    ancestors_ = std::make_shared<const detail::Bitmap>(std::move(ancestors));
  }

  bool operator()(Index q_pos, Index kv_pos) const { return bits(q_pos, kv_pos, 1) != 0; }

  /// Exact: closed form before the tree, row by row inside it.
  Coverage coverage(Range q, Range kv) const {
    if (q.empty() || kv.empty()) return Coverage::none;
    bool some = false, all = true;
    const auto add = [&](Coverage part) {
      some |= part != Coverage::none;
      all &= part == Coverage::full;
    };
    if (q.begin < first_) add(causal().coverage({q.begin, std::min(q.end, first_)}, kv));
    if (q.end > end()) add(Coverage::none);
    const Index before = intersect(kv, {0, first_}).size();
    const Range inside = intersect(kv, {first_, end()});
    const Range rows = intersect(q, {first_, end()});
    for (Index row = rows.begin; row < rows.end && !(some && !all); ++row) {
      const Index seen =
          before + ancestors_->count(row - first_, {inside.begin - first_, inside.end - first_});
      add(seen == 0 ? Coverage::none : seen == kv.size() ? Coverage::full : Coverage::partial);
    }
    return all ? Coverage::full : some ? Coverage::partial : Coverage::none;
  }

  /// Nothing after the last query: ancestors come before their descendants.
  Range bounds(Range q) const { return {0, std::min(q.end, end())}; }

  std::uint64_t bits(Index q_pos, Index kv_begin, Index count) const {
    if (q_pos < first_) return causal().bits(q_pos, kv_begin, count);
    if (q_pos >= end()) return 0;
    return range_bits({0, first_}, kv_begin, count) |
           ancestors_->bits(q_pos - first_, kv_begin - first_, count);
  }

  void check(const AttentionExtent& extent) const {
    GQA_CHECK(extent.q.end <= end(), std::invalid_argument,
              "tree: parents has " << ancestors_->rows() << " nodes from position " << first_
                                   << " on, expected nodes up to position " << extent.q.end);
  }

 private:
  Index end() const { return first_ + ancestors_->rows(); }

  Index first_;
  std::shared_ptr<const detail::Bitmap> ancestors_;
};

/// A tree of draft tokens at positions `first_position + node`, for speculative decoding. `parents[node]` is
/// the node before it on its branch, -1 for one that follows the context directly. Throws
/// std::invalid_argument for a parent that is no node or does not come before its child.
inline Tree tree(std::span<const Index> parents, Index first_position = 0) {
  return Tree(parents, first_position);
}
inline Tree tree(std::initializer_list<Index> parents, Index first_position = 0) {
  return Tree({parents.begin(), parents.size()}, first_position);
}

}  // namespace gqa
