// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <numeric>
#include <span>
#include <vector>

#include "kv/paged_model.hpp"

namespace gqa::test {

/// A paged cache whose tokens are written by their ids.
template <class T>
class PagedCase : public ::testing::Test {
 protected:
  using Cache = PagedCache<T>;

  Cache make(Index num_pages, Index page_tokens = 64, Index max_tokens = max_position) {
    return Cache({.num_pages = num_pages,
                  .page_tokens = page_tokens,
                  .max_tokens = max_tokens,
                  .num_layers = 2,
                  .num_kv_heads = 3,
                  .head_dim = 5,
                  .value_dim = 7});
  }

  static std::vector<TokenId> text(Index n, TokenId first = 0) {
    std::vector<TokenId> ids(static_cast<std::size_t>(n));
    std::iota(ids.begin(), ids.end(), first);
    return ids;
  }

  /// Goes on with all ids that a sequence does not have yet.
  void go_on(Cache& cache, SequenceId id, std::span<const TokenId> ids) {
    const Span span = cache.extend(id, std::ssize(ids) - cache.size(id));
    values_.template write<T>(ids, span.positions, [&](Index layer, const auto& k, const auto& v) {
      cache.write(layer, id, span, k, v);
    });
  }
  SequenceId add(Cache& cache, std::span<const TokenId> ids) {
    const SequenceId id = cache.create();
    go_on(cache, id, ids);
    return id;
  }
  void expect_holds(const Cache& cache, SequenceId id, std::span<const TokenId> ids) {
    ASSERT_EQ(cache.size(id), std::ssize(ids));
    EXPECT_EQ(values_.template difference<T>(
                  ids, [&](Index layer, Range r, auto& k, auto& v) { cache.read(layer, id, r, k, v); }),
              "");
  }

  TokenValues values_{2, 3, 5, 7};
};

}  // namespace gqa::test
