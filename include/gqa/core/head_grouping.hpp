// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "gqa/core/shape.hpp"

namespace gqa {

namespace detail {

/// Which query heads share a KV head, as the kernel reads it: heads `offsets[g]` to `offsets[g + 1]` of
/// `heads`, or consecutive groups of `group_size` where there is no table.
struct HeadTable {
  Index num_q_heads = 0;
  Index num_kv_heads = 0;
  Index group_size = 1;  ///< of the largest group
  const Index* offsets = nullptr;
  const Index* heads = nullptr;

  Index size(Index kv_head) const {
    return offsets == nullptr ? group_size : offsets[kv_head + 1] - offsets[kv_head];
  }
  Index q_head(Index kv_head, Index i) const {
    return offsets == nullptr ? kv_head * group_size + i : heads[offsets[kv_head] + i];
  }
};

}  // namespace detail

/// Which KV head each query head reads, where it is not h / group_size: any map, groups of unequal size and
/// KV heads that nobody reads included. Given to attention() beside the tensors; the number of query heads
/// then need not be a multiple.
class HeadGrouping {
 public:
  /// `kv_head_of[h]` is the KV head of query head h. Throws std::invalid_argument for an absent KV head or no
  /// query heads.
  HeadGrouping(std::vector<Index> kv_head_of, Index num_kv_heads) : kv_head_of_(std::move(kv_head_of)) {
    GQA_CHECK(num_kv_heads > 0, std::invalid_argument,
              "HeadGrouping: num_kv_heads is " << num_kv_heads << ", expected at least 1");
    GQA_CHECK(!kv_head_of_.empty(), std::invalid_argument,
              "HeadGrouping: no query heads, expected at least 1");
    offsets_.assign(static_cast<std::size_t>(num_kv_heads) + 1, 0);
    for (Index g = 0; g < num_kv_heads; ++g) {
      for (std::size_t h = 0; h < kv_head_of_.size(); ++h)
        if (kv_head_of_[h] == g) heads_.push_back(static_cast<Index>(h));
      offsets_[static_cast<std::size_t>(g) + 1] = static_cast<Index>(heads_.size());
    }
    for (std::size_t h = 0; h < kv_head_of_.size(); ++h)
      GQA_CHECK(kv_head_of_[h] >= 0 && kv_head_of_[h] < num_kv_heads, std::invalid_argument,
                "HeadGrouping: query head " << h << " reads KV head " << kv_head_of_[h]
                                            << ", expected less than " << num_kv_heads);
  }

  /// h / group_size, what attention() does by itself. Throws std::invalid_argument unless H is a multiple of
  /// G.
  static HeadGrouping contiguous(Index num_q_heads, Index num_kv_heads) {
    const Index group = Heads<>(num_q_heads, num_kv_heads).group_size();
    return made_of(num_q_heads, num_kv_heads, [=](Index h) { return h / group; });
  }
  /// h % G: neighbouring query heads read different KV heads. Throws std::invalid_argument unless H is a
  /// multiple of G.
  static HeadGrouping strided(Index num_q_heads, Index num_kv_heads) {
    return made_of(num_q_heads, Heads<>(num_q_heads, num_kv_heads).num_kv_heads,
                   [=](Index h) { return h % num_kv_heads; });
  }

  Index num_q_heads() const { return static_cast<Index>(kv_head_of_.size()); }
  Index num_kv_heads() const { return static_cast<Index>(offsets_.size()) - 1; }
  Index kv_head(Index q_head) const { return kv_head_of_[static_cast<std::size_t>(q_head)]; }

  detail::HeadTable table() const {
    Index largest = 0;
    for (Index g = 0; g < num_kv_heads(); ++g)
      largest = std::max(largest,
                         offsets_[static_cast<std::size_t>(g) + 1] - offsets_[static_cast<std::size_t>(g)]);
    return {num_q_heads(), num_kv_heads(), largest, offsets_.data(), heads_.data()};
  }

 private:
  template <class F>
  static HeadGrouping made_of(Index num_q_heads, Index num_kv_heads, F kv_head_of) {
    std::vector<Index> map;
    for (Index h = 0; h < num_q_heads; ++h) map.push_back(kv_head_of(h));
    return HeadGrouping(std::move(map), num_kv_heads);
  }

  std::vector<Index> kv_head_of_, offsets_, heads_;
};

}  // namespace gqa
