// SPDX-License-Identifier: Apache-2.0
// What a layer of multi-head latent attention is made of, and where checkpoints keep it.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "gqa/layer/projections.hpp"

namespace gqa {

/// Sizes of multi-head latent attention, with the names DeepSeek's config.json has for them.
struct LatentAttentionConfig {
  Index num_q_heads = 0;                   ///< num_attention_heads
  Index nope_dim = 0;                      ///< qk_nope_head_dim: of a head's key, made from the latent
  Index rope_dim = 0;                      ///< qk_rope_head_dim: rotated, and the same for all heads
  Index latent_dim = 0;                    ///< kv_lora_rank
  Index value_dim = 0;                     ///< v_head_dim
  double scale = 0;                        ///< multiplies q k, see latent_scale(); to be given
  std::optional<QKNorm> q_norm = {};       ///< q_a_layernorm, of the low rank of queries
  std::optional<QKNorm> latent_norm = {};  ///< kv_a_layernorm, of latent_dim
  std::optional<Rope> rope = {};           ///< of rope_dim; DeepSeek's is interleaved

  Index head_dim() const { return nope_dim + rope_dim; }
  Index row_dim() const { return latent_dim + rope_dim; }  ///< of the latent cache
};

/// DeepSeek's scale, yarn_mscale(factor, mscale_all_dim)^2 / sqrt(nope_dim + rope_dim): 1 / sqrt(head_dim)
/// without YaRN, whose factor and mscale_all_dim config.json gives under rope_scaling.
inline double latent_scale(Index nope_dim, Index rope_dim, double yarn_factor = 1,
                           double mscale_all_dim = 0) {
  const double mscale = yarn_mscale(yarn_factor, mscale_all_dim);
  return mscale * mscale / std::sqrt(static_cast<double>(nope_dim + rope_dim));
}

/// The weights, of any element types, in memory that outlives the layer. Per head h, `kv_up` has nope_dim
/// rows that make keys of the latent and behind them value_dim rows that make values.
struct LatentProjections {
  Projection q = {};        ///< q_proj: H * (nope_dim + rope_dim) rows; or, of low rank,
  Projection q_down = {};   ///< q_a_proj: rank x model_dim, and
  Projection q_up = {};     ///< q_b_proj: H * (nope_dim + rope_dim) x rank
  Projection kv_down = {};  ///< kv_a_proj_with_mqa: latent_dim + rope_dim rows
  MatrixView kv_up = {};    ///< kv_b_proj: H * (nope_dim + value_dim) x latent_dim
  Projection output = {};   ///< o_proj: H * value_dim columns
};

/// The weights of one layer of DeepSeek-V2, V2-Lite, V3 and models built like them, by the names of their
/// checkpoints: `find(name)` is the matrix `prefix` + "q_proj.weight" and so on, or nothing where there is
/// none; `prefix` is "model.layers.0.self_attn.". Norms are taken into `config` with this epsilon. Throws
/// std::invalid_argument naming a tensor that is missing.
template <class Find>
LatentProjections deepseek_projections(const std::string& prefix, Find&& find, LatentAttentionConfig& config,
                                       double epsilon = 1e-6) {
  const auto look = [&](const char* name) -> std::optional<MatrixView> { return find(prefix + name); };
  const auto need = [&](const char* name) {
    const std::optional<MatrixView> found = look(name);
    GQA_CHECK(found, std::invalid_argument, prefix << name << ": is missing");
    return *found;
  };
  const auto norm = [&](const char* name) -> std::optional<QKNorm> {
    const std::optional<MatrixView> found = look(name);
    if (!found) return std::nullopt;
    GQA_CHECK(
        found->rows == 1 || found->columns == 1, std::invalid_argument,
        prefix << name << ": sizes are " << found->rows << " x " << found->columns << ", expected a vector");
    std::vector<double> weights;
    const auto widen = [&]<class T>(T element, const std::byte* at) {
      found->format->template kernels<T>(isa()).widen_row(at, 1, T{1}, &element);
      return static_cast<double>(element);
    };
    for (Index i = 0; i < found->rows * found->columns; ++i) {
      const std::byte* const at = found->rows == 1 ? found->at(0, i) : found->at(i, 0);
      weights.push_back(found->format->in_double ? widen(0.0, at) : widen(0.0f, at));
    }
    return QKNorm(NormWeights::plain, weights, epsilon);
  };
  LatentProjections p;
  if (const auto q = look("q_proj.weight")) {
    p.q.weight = *q;
  } else {
    p.q_down.weight = need("q_a_proj.weight");
    p.q_up.weight = need("q_b_proj.weight");
    config.q_norm = norm("q_a_layernorm.weight");
  }
  p.kv_down.weight = need("kv_a_proj_with_mqa.weight");
  p.kv_up = need("kv_b_proj.weight");
  p.output.weight = need("o_proj.weight");
  config.latent_norm = norm("kv_a_layernorm.weight");
  return p;
}

namespace detail {

inline void check_latent_config(const LatentAttentionConfig& c) {
  const auto check = [](const char* name, Index is, Index least) {
    GQA_CHECK(is >= least, std::invalid_argument,
              "LatentAttention: " << name << " is " << is << ", expected at least " << least);
  };
  check("num_q_heads", c.num_q_heads, 1);
  check("nope_dim", c.nope_dim, 1);
  check("rope_dim", c.rope_dim, 0);
  check("latent_dim", c.latent_dim, 1);
  check("value_dim", c.value_dim, 1);
  GQA_CHECK(std::isfinite(c.scale) && c.scale > 0, std::invalid_argument,
            "LatentAttention: scale is " << c.scale << ", expected a positive number, see latent_scale()");
  const auto size = [&](Index a, Index b) {
    return checked_mul(c.num_q_heads, checked_add(a, b, "LatentAttention"), "LatentAttention");
  };
  checked_add(size(c.nope_dim, c.rope_dim), size(c.nope_dim, c.value_dim), "LatentAttention");
  size(c.latent_dim, c.rope_dim);
  const auto check_norm = [](const char* name, const std::optional<QKNorm>& norm, Index dim) {
    GQA_CHECK(!norm || norm->head_dim() == dim, std::invalid_argument,
              "LatentAttention: " << name << " has " << norm->head_dim() << " weights, expected " << dim);
  };
  check_norm("latent_norm", c.latent_norm, c.latent_dim);
  GQA_CHECK(!c.rope || c.rope->config().head_dim == c.rope_dim, std::invalid_argument,
            "LatentAttention: head_dim of rope is " << c.rope->config().head_dim << ", expected the "
                                                    << c.rope_dim << " of rope_dim");
}

/// Throws std::invalid_argument naming the weight that disagrees. Returns model_dim.
inline Index check_latent_projections(const LatentProjections& p, const LatentAttentionConfig& c,
                                      bool in_double) {
  const auto check = [&](const char* name, const Projection& projection, Index rows, const char* of_rows,
                         Index columns, const char* of_columns) {
    check_projection("LatentAttention", name, projection, rows, of_rows, columns, of_columns, in_double);
  };
  const Index heads = c.num_q_heads, q_rows = heads * c.head_dim();
  const char* const of_q = "num_q_heads x (nope_dim + rope_dim)";
  const bool low_rank = p.q.weight.format == nullptr;
  GQA_CHECK(low_rank || (p.q_down.weight.format == nullptr && p.q_up.weight.format == nullptr),
            std::invalid_argument, "LatentAttention: q_down or q_up beside q, expected either");
  const Index model_dim = low_rank ? p.q_down.weight.columns : p.q.weight.columns;
  if (low_rank) {
    const Index rank = p.q_down.weight.rows;
    check("q_down", p.q_down, rank, "its rows", model_dim, "model_dim");
    check("q_up", p.q_up, q_rows, of_q, rank, "the rows of q_down");
    GQA_CHECK(!c.q_norm || c.q_norm->head_dim() == rank, std::invalid_argument,
              "LatentAttention: q_norm has " << c.q_norm->head_dim() << " weights, expected the " << rank
                                             << " rows of q_down");
  } else {
    check("q", p.q, q_rows, of_q, model_dim, "model_dim");
    GQA_CHECK(!c.q_norm, std::invalid_argument,
              "LatentAttention: q_norm is of the low rank of queries, expected none beside q");
  }
  check("kv_down", p.kv_down, c.row_dim(), "latent_dim + rope_dim", model_dim, "model_dim as in q");
  check("kv_up", Projection{p.kv_up, {}}, heads * (c.nope_dim + c.value_dim),
        "num_q_heads x (nope_dim + value_dim)", c.latent_dim, "latent_dim");
  check("output", p.output, p.output.weight.rows, "its rows", heads * c.value_dim, "num_q_heads x value_dim");
  return model_dim;
}

}  // namespace detail

}  // namespace gqa
