// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "gqa/convert/weights.hpp"

namespace gqa::convert {

namespace detail {

/// Rows of `x` in blocks of `size`, block i of the result being block `from[i]`.
inline Matrix gathered_rows(const Matrix& x, const std::vector<Index>& from, Index size) {
  Matrix result(static_cast<Index>(from.size()) * size, x.cols());
  for (std::size_t i = 0; i < from.size(); ++i)
    std::copy_n(x.row(from[i] * size), size * x.cols(), result.row(static_cast<Index>(i) * size));
  return result;
}
inline std::vector<double> gathered(const std::vector<double>& x, const std::vector<Index>& from,
                                    Index size) {
  std::vector<double> result;
  if (x.empty()) return result;
  for (Index block : from)
    result.insert(result.end(), x.begin() + block * size, x.begin() + (block + 1) * size);
  return result;
}
inline Matrix gathered_columns(const Matrix& x, const std::vector<Index>& from, Index size) {
  Matrix result(x.rows(), static_cast<Index>(from.size()) * size);
  for (Index r = 0; r < x.rows(); ++r)
    for (std::size_t i = 0; i < from.size(); ++i)
      std::copy_n(x.row(r) + from[i] * size, size, result.row(r) + static_cast<Index>(i) * size);
  return result;
}

}  // namespace detail

/// The same layer with more KV heads, copies of those there are: `num_kv_heads` is a multiple of them, at
/// most the query heads. The query heads of a KV head are shared out over its copies in order, as evenly as
/// they go; with as many KV heads as query heads each has its own (MHA). No score and no output changes a
/// bit.
///
/// With `num_kv_heads` = H, any head map is undone. Throws std::invalid_argument for a number that is neither
/// H nor a multiple, or beyond H, and where a KV head has too few readers for its copies.
inline Weights expand_heads(const Weights& source, Index num_kv_heads) {
  source.check();
  const Index H = source.num_q_heads(), G = source.num_kv_heads();
  GQA_CHECK(num_kv_heads == H || (num_kv_heads > 0 && num_kv_heads < H && num_kv_heads % G == 0),
            std::invalid_argument,
            "num_kv_heads is " << num_kv_heads << ", expected a multiple of the " << G
                               << " KV heads below the " << H << " query heads, or as many as those");
  std::vector<Index> from, map(static_cast<std::size_t>(H));
  if (num_kv_heads == H) {
    for (Index h = 0; h < H; ++h) {
      from.push_back(source.heads.kv_head(h));
      map[static_cast<std::size_t>(h)] = h;
    }
  } else {
    const Index copies = num_kv_heads / G;
    const auto table = source.heads.table();
    for (Index g = 0; g < G; ++g) {
      const Index readers = table.size(g);
      GQA_CHECK(readers >= copies, std::invalid_argument,
                "num_kv_heads is " << num_kv_heads << ", which makes " << copies << " of KV head " << g
                                   << ", expected at most its " << readers << " query heads");
      from.insert(from.end(), static_cast<std::size_t>(copies), g);
      for (Index i = 0; i < readers; ++i)
        map[static_cast<std::size_t>(table.q_head(g, i))] = g * copies + i * copies / readers;
    }
  }
  Weights w = source;
  w.wk = detail::gathered_rows(source.wk, from, source.head_dim());
  w.bk = detail::gathered(source.bk, from, source.head_dim());
  w.wv = detail::gathered_rows(source.wv, from, source.value_dim());
  w.bv = detail::gathered(source.bv, from, source.value_dim());
  w.heads = HeadGrouping(std::move(map), num_kv_heads);
  return w;
}

/// The same layer with query heads in an order in which those of a KV head follow each other, so that head h
/// reads KV head h / (H / G) as files and other libraries have it: Wq, bq and the columns of Wo are permuted,
/// which changes the order of sums in Wo and nothing else. What belongs to a query head beside the weights
/// (ALiBi slopes, sinks) is for the caller to permute: `order`, where it is given, gets the old number of
/// each new head. Throws std::invalid_argument where groups are of unequal size: expand_heads() serves those.
inline Weights contiguous_heads(const Weights& source, std::vector<Index>* order = nullptr) {
  source.check();
  const auto table = source.heads.table();
  std::vector<Index> from;
  for (Index g = 0; g < table.num_kv_heads; ++g) {
    GQA_CHECK(table.size(g) * table.num_kv_heads == table.num_q_heads, std::invalid_argument,
              "heads: KV head " << g << " has " << table.size(g)
                                << " query heads, expected as many as every other");
    for (Index i = 0; i < table.size(g); ++i) from.push_back(table.q_head(g, i));
  }
  Weights w = source;
  w.wq = detail::gathered_rows(source.wq, from, source.head_dim());
  w.bq = detail::gathered(source.bq, from, source.head_dim());
  w.wo = detail::gathered_columns(source.wo, from, source.value_dim());
  w.heads = HeadGrouping::contiguous(table.num_q_heads, table.num_kv_heads);
  if (order) *order = std::move(from);
  return w;
}

}  // namespace gqa::convert
