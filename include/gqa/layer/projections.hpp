// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "gqa/core/head_grouping.hpp"
#include "gqa/layer/matrix_view.hpp"
#include "gqa/position/qk_norm.hpp"
#include "gqa/position/rope.hpp"

namespace gqa {

/// What an attention layer is, but for its weights.
struct AttentionLayerConfig {
  Index num_q_heads = 0;
  Index num_kv_heads = 0;
  Index head_dim = 0;
  Index value_dim = 0;                             ///< head_dim unless given
  std::optional<HeadGrouping> grouping = {};       ///< query head h reads KV head h / (H / G) unless given
  std::optional<double> scale = {};                ///< multiplies q k; 1 / sqrt(head_dim) unless given
  std::optional<QKNorm> q_norm = {}, k_norm = {};  ///< of each head, before the rotary embedding
  std::optional<Rope> rope = {};

  Index q_size() const { return num_q_heads * head_dim; }
  Index k_size() const { return num_kv_heads * head_dim; }
  Index v_size() const { return num_kv_heads * value_dim; }
  Index qkv_size() const { return q_size() + k_size() + v_size(); }
  Index attended_size() const { return num_q_heads * value_dim; }
};

/// A linear layer: y = x W^T (+ b), W out_dim x in_dim.
struct Projection {
  MatrixView weight = {};
  VectorView bias = {};
};

/// The four of an attention layer, of any element types, in memory that outlives the layer: q of H * head_dim
/// rows, k of G * head_dim, v of G * value_dim, and the output's columns H * value_dim.
struct AttentionProjections {
  Projection q = {}, k = {}, v = {}, output = {};
  Projection qkv =
      {};  ///< in place of q, k and v: their rows in this order, as models that fuse them keep it
};

namespace detail {

inline void check_layer_config(AttentionLayerConfig& config) {
  if (config.value_dim == 0) config.value_dim = config.head_dim;
  const auto check_positive = [](const char* name, Index size) {
    GQA_CHECK(size > 0, std::invalid_argument,
              "AttentionLayer: " << name << " is " << size << ", expected at least 1");
  };
  check_positive("num_q_heads", config.num_q_heads);
  check_positive("num_kv_heads", config.num_kv_heads);
  check_positive("head_dim", config.head_dim);
  check_positive("value_dim", config.value_dim);
  // Sizes that overflow are refused once, here.
  const Index q = checked_mul(config.num_q_heads, config.head_dim, "AttentionLayer");
  const Index k = checked_mul(config.num_kv_heads, config.head_dim, "AttentionLayer");
  const Index v = checked_mul(config.num_kv_heads, config.value_dim, "AttentionLayer");
  checked_mul(config.num_q_heads, config.value_dim, "AttentionLayer");
  checked_add(checked_add(q, k, "AttentionLayer"), v, "AttentionLayer");
  if (config.grouping) {
    GQA_CHECK(config.grouping->num_q_heads() == config.num_q_heads &&
                  config.grouping->num_kv_heads() == config.num_kv_heads,
              std::invalid_argument,
              "AttentionLayer: the HeadGrouping has "
                  << config.grouping->num_q_heads() << " query heads and " << config.grouping->num_kv_heads()
                  << " KV heads, expected " << config.num_q_heads << " and " << config.num_kv_heads);
  } else {
    GQA_CHECK(config.num_q_heads % config.num_kv_heads == 0, std::invalid_argument,
              "AttentionLayer: num_q_heads is " << config.num_q_heads << ", expected a multiple of the "
                                                << config.num_kv_heads
                                                << " of num_kv_heads, or a HeadGrouping");
    config.grouping = HeadGrouping::contiguous(config.num_q_heads, config.num_kv_heads);
  }
  const auto check_head_dim = [&](const char* name, Index dim) {
    GQA_CHECK(dim == config.head_dim, std::invalid_argument,
              "AttentionLayer: head_dim of " << name << " is " << dim << ", expected " << config.head_dim);
  };
  if (config.q_norm) check_head_dim("q_norm", config.q_norm->head_dim());
  if (config.k_norm) check_head_dim("k_norm", config.k_norm->head_dim());
  if (config.rope) check_head_dim("rope", config.rope->config().head_dim);
}

/// `rows` and `columns` say what those of a weight are made of; the columns of `input` are model_dim.
inline void check_projection(const char* layer, const char* name, const Projection& p, Index rows,
                             const char* of_rows, Index columns, const char* of_columns, bool in_double) {
  GQA_CHECK(p.weight.format != nullptr, std::invalid_argument,
            layer << ": the " << name << " weight is missing");
  GQA_CHECK(p.weight.rows == rows, std::invalid_argument,
            layer << ": the " << name << " weight has " << p.weight.rows << " rows, expected " << rows
                  << " = " << of_rows);
  GQA_CHECK(p.weight.columns == columns, std::invalid_argument,
            layer << ": the " << name << " weight has " << p.weight.columns << " columns, expected "
                  << columns << " = " << of_columns);
  const bool has_bias = p.bias.row.format != nullptr;
  GQA_CHECK(!has_bias || p.bias.size() == rows, std::invalid_argument,
            layer << ": the " << name << " bias has " << p.bias.size() << " elements, expected " << rows
                  << " = " << of_rows);
  GQA_CHECK(
      p.weight.format->in_double == in_double && (!has_bias || p.bias.row.format->in_double == in_double),
      std::invalid_argument,
      layer << ": the " << name << " projection is of " << p.weight.format->name << (has_bias ? " and " : "")
            << (has_bias ? p.bias.row.format->name : "")
            << ", expected f64 in a layer of double and no f64 in one of float");
}

/// Checks all of them and splits a fused one. Returns model_dim.
inline Index check_projections(AttentionProjections& p, const AttentionLayerConfig& config, bool in_double) {
  const bool fused = p.qkv.weight.format != nullptr;
  GQA_CHECK(!fused || (p.q.weight.format == nullptr && p.k.weight.format == nullptr &&
                       p.v.weight.format == nullptr && p.q.bias.row.format == nullptr &&
                       p.k.bias.row.format == nullptr && p.v.bias.row.format == nullptr),
            std::invalid_argument, "AttentionLayer: q, k or v beside qkv, expected either");
  const Index model_dim = fused ? p.qkv.weight.columns : p.q.weight.columns;
  if (fused) {
    check_projection("AttentionLayer", "qkv", p.qkv, config.qkv_size(), "those of q, k and v", model_dim,
                     "model_dim", in_double);
    const auto part = [&](Index first, Index count) {
      Projection rows{p.qkv.weight.middle_rows(first, count), {}};
      if (p.qkv.bias.row.format != nullptr) {
        rows.bias.row = p.qkv.bias.row;
        rows.bias.row.data = p.qkv.bias.row.at(0, first);
        rows.bias.row.columns = count;
      }
      return rows;
    };
    p.q = part(0, config.q_size());
    p.k = part(config.q_size(), config.k_size());
    p.v = part(config.q_size() + config.k_size(), config.v_size());
  }
  check_projection("AttentionLayer", "q", p.q, config.q_size(), "num_q_heads x head_dim", model_dim,
                   "model_dim", in_double);
  check_projection("AttentionLayer", "k", p.k, config.k_size(), "num_kv_heads x head_dim", model_dim,
                   "model_dim as in q", in_double);
  check_projection("AttentionLayer", "v", p.v, config.v_size(), "num_kv_heads x value_dim", model_dim,
                   "model_dim as in q", in_double);
  GQA_CHECK(p.output.weight.format != nullptr, std::invalid_argument,
            "AttentionLayer: the output weight is missing");
  check_projection("AttentionLayer", "output", p.output, p.output.weight.rows, "its rows",
                   config.attended_size(), "num_q_heads x value_dim", in_double);
  return model_dim;
}

}  // namespace detail

}  // namespace gqa
