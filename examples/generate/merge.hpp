// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <queue>
#include <string_view>
#include <tuple>
#include <vector>

#include "vocabulary.hpp"

namespace generate {

inline constexpr TokenId no_token = -1;

/// A piece of text on its way to becoming a token; `no_token` while the vocabulary has none for it.
struct Symbol {
  TokenId id;
  std::string_view text;
};

/// What two adjacent symbols may become; the lowest rank is merged first.
struct Merge {
  double rank;
  Symbol result;
};

/// Byte-pair encoding (Sennrich et al. 2016): merges the adjacent pair of lowest rank, the leftmost of
/// equals, until no pair may be merged. `lookup(left, right)` says what a pair may become. Takes n log n
/// steps, so a run of a million spaces is no trap.
template <class Lookup>
std::vector<Symbol> merge_pairs(std::vector<Symbol> symbols, Lookup lookup) {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  // Symbols form a list: a merge leaves its result at the left place and takes the right one out.
  std::vector<std::size_t> previous(symbols.size()), next(symbols.size()), version(symbols.size(), 0);
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    previous[i] = i == 0 ? none : i - 1;
    next[i] = i + 1 == symbols.size() ? none : i + 1;
  }
  struct Candidate {
    double rank;
    std::size_t left, right, left_version, right_version;
    Symbol result;
    bool operator>(const Candidate& other) const {
      return std::tie(rank, left) > std::tie(other.rank, other.left);
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](std::size_t left, std::size_t right) {
    if (left == none || right == none) return;
    const std::optional<Merge> merge = lookup(symbols[left], symbols[right]);
    if (merge) queue.push({merge->rank, left, right, version[left], version[right], merge->result});
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) offer(i, i + 1);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const auto [left, right] = std::pair(best.left, best.right);
    if (version[left] != best.left_version || version[right] != best.right_version)
      continue;  // merged meanwhile
    symbols[left] = best.result;
    ++version[left];
    ++version[right];
    next[left] = next[right];
    if (next[right] != none) previous[next[right]] = left;
    offer(previous[left], left);
    offer(left, next[left]);
  }
  std::vector<Symbol> merged;
  for (std::size_t i = symbols.empty() ? none : 0; i != none; i = next[i]) merged.push_back(symbols[i]);
  return merged;
}

}  // namespace generate
