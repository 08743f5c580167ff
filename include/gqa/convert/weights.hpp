// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>
#include <vector>

#include "gqa/convert/matrix.hpp"
#include "gqa/core/head_grouping.hpp"

namespace gqa::convert {

/// What the KV cache of a layer holds for one token.
struct CacheCost {
  Index elements_per_token = 0;

  /// Of `tokens` tokens whose elements take so many bytes. Throws std::length_error on overflow.
  Index bytes(Index tokens, Index bytes_per_element) const {
    return checked_mul(checked_mul(elements_per_token, tokens, "cache"), bytes_per_element, "cache");
  }
};

/// The projections of one attention layer, each as a linear layer holds it (outputs x inputs), for an input
/// x: q = Wq x + bq and so on, of heads side by side, and Wo takes the heads' outputs side by side.
///
///     Wq: (H * D) x inputs    Wk: (G * D) x inputs    Wv: (G * Dv) x inputs    Wo: outputs x (H * Dv)
///
/// Sizes follow from the matrices and `heads`, which says what KV head each query head reads. Queries may
/// have inputs of another width than keys and values (cross attention). A bias that is empty is none.
struct Weights {
  Matrix wq, wk, wv, wo;
  std::vector<double> bq = {}, bk = {}, bv = {}, bo = {};
  HeadGrouping heads;

  Weights(Matrix q, Matrix k, Matrix v, Matrix o, HeadGrouping map)
      : wq(std::move(q)), wk(std::move(k)), wv(std::move(v)), wo(std::move(o)), heads(std::move(map)) {
    check();
  }
  /// Query head h reads KV head h / (H / G). Throws std::invalid_argument unless H is a multiple of G.
  Weights(Matrix q, Matrix k, Matrix v, Matrix o, Index num_q_heads, Index num_kv_heads)
      : Weights(std::move(q), std::move(k), std::move(v), std::move(o),
                HeadGrouping::contiguous(num_q_heads, num_kv_heads)) {}

  Index num_q_heads() const { return heads.num_q_heads(); }
  Index num_kv_heads() const { return heads.num_kv_heads(); }
  Index head_dim() const { return wq.rows() / num_q_heads(); }
  Index value_dim() const { return wv.rows() / num_kv_heads(); }
  Index kv_inputs() const { return wk.cols(); }

  CacheCost cache() const { return {num_kv_heads() * (head_dim() + value_dim())}; }

  /// Throws std::invalid_argument naming the matrix whose size fits the others and the heads badly, or that
  /// holds something else than finite numbers. Everything that takes weights calls it.
  void check() const {
    const auto expect = [](const char* name, const char* what, Index is, Index expected) {
      GQA_CHECK(is == expected, std::invalid_argument,
                name << ": " << what << " is " << is << ", expected " << expected);
    };
    const auto expect_heads = [](const char* name, const char* what, Index is, Index of) {
      GQA_CHECK(
          is > 0 && is % of == 0, std::invalid_argument,
          name << ": " << what << " is " << is << ", expected a positive multiple of the " << of << " heads");
    };
    expect_heads("wq", "rows", wq.rows(), num_q_heads());
    expect_heads("wv", "rows", wv.rows(), num_kv_heads());
    expect("wk", "rows", wk.rows(), num_kv_heads() * head_dim());
    expect("wo", "cols", wo.cols(), num_q_heads() * value_dim());
    expect("wv", "cols", wv.cols(), wk.cols());
    for (const auto& [name, cols] : {std::pair{"wq", wq.cols()}, std::pair{"wk", wk.cols()}})
      GQA_CHECK(cols > 0, std::invalid_argument, name << ": cols is " << cols << ", expected at least 1");
    const auto expect_bias = [](const char* name, const std::vector<double>& bias, Index rows) {
      GQA_CHECK(bias.empty() || static_cast<Index>(bias.size()) == rows, std::invalid_argument,
                name << ": size is " << bias.size() << ", expected " << rows << ", or 0 for none");
      detail::check_finite(bias, name);
    };
    expect_bias("bq", bq, wq.rows());
    expect_bias("bk", bk, wk.rows());
    expect_bias("bv", bv, wv.rows());
    expect_bias("bo", bo, wo.rows());
    detail::check_finite(wq, "wq");
    detail::check_finite(wk, "wk");
    detail::check_finite(wv, "wv");
    detail::check_finite(wo, "wo");
  }
};

}  // namespace gqa::convert
