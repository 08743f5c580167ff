// SPDX-License-Identifier: Apache-2.0
// Random levels of a cascade, and each sequence's own concatenation of what it reads.
#pragma once

#include "attention/ragged_case.hpp"
#include "gqa/gqa.hpp"

namespace gqa::test {

/// The lengths of the nodes of a level, and the sequences that read each.
struct LevelOf {
  std::vector<Index> lengths;
  std::vector<Index> offsets;
};

/// Random nodes, the levels made of them, and each sequence's concatenation of what it reads.
template <Scalar T>
struct CascadeCase {
  using View = typename KVCache<T>::View;

  CascadeCase(const std::vector<LevelOf>& shape, const std::vector<Index>& queries, const Sizes& s,
              std::uint64_t seed)
      : unshared({}, s, 0) {
    const std::size_t num_seqs = queries.size();
    std::vector<std::vector<T>> k(num_seqs), v(num_seqs);
    for (const LevelOf& level : shape) {
      std::vector<View> views;
      for (std::size_t node = 0; node < level.lengths.size(); ++node) {
        const Index n = level.lengths[node];
        AttentionCase<T> part(Sizes{0, n, s.num_q_heads, s.num_kv_heads, s.head_dim, s.value_dim}, seed++);
        caches.push_back(std::make_unique<KVCache<T>>(cache_of(part)));
        views.push_back(caches.back()->layer(0));
        for (Index i = level.offsets[node]; i < level.offsets[node + 1]; ++i) {
          const auto seq = static_cast<std::size_t>(i);
          k[seq].insert(k[seq].end(), part.k.begin(), part.k.end());
          v[seq].insert(v[seq].end(), part.v.begin(), part.v.end());
        }
      }
      levels.push_back({KVList<View>(views), level.offsets});
    }
    std::vector<Lengths> lengths;
    for (std::size_t i = 0; i < num_seqs; ++i)
      lengths.push_back({queries[i], static_cast<Index>(k[i].size()) / (s.num_kv_heads * s.head_dim)});
    unshared = RaggedCase<T>(lengths, s, seed);
    for (std::size_t i = 0; i < num_seqs; ++i) {
      unshared.each[i].k = k[i];
      unshared.each[i].v = v[i];
    }
  }

  template <class... X>
  Result<T> attend(Threads& threads, const X&... extras) const {
    return unshared.result_of([&](auto out, auto lse) {
      cascade_attention(threads, unshared.q(), levels, out, lse, options, extras...);
    });
  }

  std::vector<std::unique_ptr<KVCache<T>>> caches;
  std::vector<CascadeLevel<KVList<View>>> levels;
  RaggedCase<T> unshared;
  AttentionOptions options = {};
};

inline const Sizes cascade_heads{0, 0, 6, 2, 24, 20};

// Five sequences: decoding, a chunk of a prefill, one without queries, one that is all its own.
inline const std::vector<Index> cascade_queries{1, 30, 0, 1, 5};
inline LevelOf own(std::vector<Index> lengths) { return {std::move(lengths), {0, 1, 2, 3, 4, 5}}; }
inline const LevelOf tails = own({1, 300, 7, 600, 70});

}  // namespace gqa::test
