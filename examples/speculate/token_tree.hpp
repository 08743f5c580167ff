// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include "vocabulary.hpp"

namespace speculate {

using generate::TokenId;
using gqa::Index;

/// Tokens that branch, as gqa::tree() wants them: node 0 is the root, each other node comes after its parent,
/// and no node has two children of one token. The branch added first is the trunk: its nodes follow each
/// other without a gap, so that in a cache they lie where decoding would have put them.
class TokenTree {
 public:
  explicit TokenTree(TokenId root) : tokens_{root}, parents_{-1} {}

  /// Adds the tokens after the root, as far as they are not there yet, until `most` are new. Returns how
  /// many.
  Index add(std::span<const TokenId> branch, Index most = std::numeric_limits<Index>::max()) {
    Index node = 0, added = 0;
    for (const TokenId token : branch) {
      const Index next = child(node, token);
      if (next < 0) {
        if (added == most) break;
        tokens_.push_back(token);
        parents_.push_back(node);
        ++added;
      }
      node = next < 0 ? size() - 1 : next;
    }
    return added;
  }

  /// The child of a node that is this token, -1: there is none.
  Index child(Index node, TokenId token) const {
    for (Index i = node + 1; i < size(); ++i) {
      if (parents_[static_cast<std::size_t>(i)] == node && tokens_[static_cast<std::size_t>(i)] == token)
        return i;
    }
    return -1;
  }

  /// How many nodes from the root on follow each other: the trunk's.
  Index trunk_size() const {
    Index i = 1;
    while (i < size() && parents_[static_cast<std::size_t>(i)] == i - 1) ++i;
    return i;
  }

  Index size() const { return std::ssize(tokens_); }
  std::span<const TokenId> tokens() const { return tokens_; }
  std::span<const Index> parents() const { return parents_; }

 private:
  std::vector<TokenId> tokens_;
  std::vector<Index> parents_;
};

}  // namespace speculate
