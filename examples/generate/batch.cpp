// SPDX-License-Identifier: Apache-2.0
#include "batch.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "gqa/gqa.hpp"

namespace generate {
namespace {

/// Tokens `begin` to `end` of a tensor.
gqa::TensorView<const float> rows(gqa::TensorView<const float> x, Index begin, Index end) {
  x.data += begin * x.token_stride;
  x.tokens = end - begin;
  return x;
}

}  // namespace

template <gqa::Scalar T>
Batch<T>::Batch(const Model& model, gqa::PoolExecutor executor, Index num_pages)
    : sizes_(model.sizes),
      executor_(executor),
      forward_(model, executor),
      cache_({.num_pages = num_pages,
              .max_tokens = model.sizes.context_length,
              .num_layers = model.sizes.num_layers,
              .num_kv_heads = model.sizes.num_kv_heads,
              .head_dim = model.sizes.head_dim,
              .value_dim = model.sizes.value_dim}) {}

template <gqa::Scalar T>
void Batch<T>::step(std::span<const Piece> pieces) {
  GQA_CHECK(!pieces.empty(), std::invalid_argument, "step: no pieces, expected at least 1");
  std::vector<gqa::SequenceId> ids;
  std::vector<TokenId> tokens;
  std::vector<Index> positions, offsets = {0};
  std::vector<gqa::Span> spans;
  for (const Piece& piece : pieces) {
    GQA_CHECK(!piece.tokens.empty(), std::invalid_argument,
              "step: no tokens for sequence " << piece.id.value << ", expected at least 1");
    GQA_CHECK(std::ranges::count(ids, piece.id) == 0, std::invalid_argument,
              "step: sequence " << piece.id.value << " is given twice");
    ids.push_back(piece.id);
    tokens.insert(tokens.end(), piece.tokens.begin(), piece.tokens.end());
    offsets.push_back(std::ssize(tokens));
  }
  forward_.check(tokens);
  positions.resize(tokens.size());
  spans.reserve(pieces.size());
  try {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      spans.push_back(cache_.extend(ids[i], offsets[i + 1] - offsets[i]));
      std::iota(positions.begin() + offsets[i], positions.begin() + offsets[i + 1],
                spans.back().positions.begin);
    }
    forward_.run(
        tokens, positions, [&](Index layer, const auto& q, const auto& k, const auto& v, const auto& out) {
          for (std::size_t i = 0; i < ids.size(); ++i)
            cache_.write(layer, ids[i], spans[i], rows(k, offsets[i], offsets[i + 1]),
                         rows(v, offsets[i], offsets[i + 1]));
          gqa::attention(executor_, gqa::ragged(q, offsets),
                         cache_.layer(layer, std::span<const gqa::SequenceId>(ids)), out,
                         gqa::causal() & gqa::sliding_window(sizes_.window(layer)),
                         gqa::AttentionOptions{.scale = sizes_.attention_scale, .workspace = &workspace_});
        });
  } catch (...) {
    for (std::size_t i = 0; i < spans.size(); ++i) cache_.truncate(ids[i], spans[i].positions.begin);
    throw;
  }
  offsets_ = std::move(offsets);
}

template <gqa::Scalar T>
const Matrix& Batch<T>::logits(std::span<const Index> pieces) {
  std::vector<Index> last;
  for (const Index piece : pieces) {
    GQA_CHECK(piece >= 0 && piece < num_pieces(), std::invalid_argument,
              "logits: piece is " << piece << ", expected less than " << num_pieces());
    last.push_back(offsets_[static_cast<std::size_t>(piece) + 1] - 1);
  }
  return forward_.logits(last);
}

template class Batch<float>;
template class Batch<gqa::half>;
template class Batch<gqa::bfloat16>;

}  // namespace generate
