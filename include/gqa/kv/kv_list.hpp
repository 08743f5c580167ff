// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "gqa/kv/view.hpp"

namespace gqa {

/// A list of views of one sequence each (a cache's layer for each request of a server) as one view of many
/// sequences.
template <KVView View>
class KVList {
 public:
  using Scalar = typename View::Scalar;

  /// Throws std::invalid_argument for an empty list, views of more than one sequence, or of different sizes.
  explicit KVList(std::vector<View> views) : views_(std::move(views)) {
    GQA_CHECK(!views_.empty(), std::invalid_argument, "KVList: no views, expected at least 1");
    for (std::size_t i = 0; i < views_.size(); ++i) {
      const View& v = views_[i];
      GQA_CHECK(v.num_seqs() == 1, std::invalid_argument,
                "KVList: view " << i << " has " << v.num_seqs() << " sequences, expected 1");
      GQA_CHECK(
          v.num_kv_heads() == num_kv_heads() && v.head_dim() == head_dim() && v.value_dim() == value_dim(),
          std::invalid_argument,
          "KVList: view " << i << " is " << v.num_kv_heads() << " x " << v.head_dim() << " and x "
                          << v.value_dim() << ", expected " << num_kv_heads() << " x " << head_dim()
                          << " and x " << value_dim() << " as in view 0");
    }
  }

  Index num_seqs() const { return static_cast<Index>(views_.size()); }
  Index num_kv_heads() const { return first().num_kv_heads(); }
  Index head_dim() const { return first().head_dim(); }
  Index value_dim() const { return first().value_dim(); }
  Index scratch_bytes() const {
    Index most = 0;
    for (const View& v : views_) most = std::max<Index>(most, v.scratch_bytes());
    return most;
  }
  Ranges retained(Index seq) const { return at(seq).retained(0); }
  KVTile tile(Index seq, Index kv_head, Range want, void* scratch) const {
    return at(seq).tile(0, kv_head, want, scratch);
  }

 private:
  const View& first() const {
    GQA_CHECK(!views_.empty(), std::invalid_argument, "KVList: the list was moved from");
    return views_.front();
  }
  const View& at(Index seq) const { return views_[static_cast<std::size_t>(seq)]; }

  std::vector<View> views_;
};

}  // namespace gqa
