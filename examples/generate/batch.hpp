// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "forward.hpp"
#include "gqa/kernel/workspace.hpp"
#include "gqa/kv/paged.hpp"
#include "session.hpp"

namespace generate {

/// Tokens that come next in a sequence of a batch.
struct Piece {
  gqa::SequenceId id;
  std::span<const TokenId> tokens;
};

/// Many sequences of one model that go through it together. Their keys and values are in one paged cache,
/// where they are created, forked, reordered, swapped and freed; step() feeds them.
template <gqa::Scalar T>
class Batch {
 public:
  /// The model must outlive it.
  Batch(const Model& model, gqa::PoolExecutor executor, Index num_pages);

  gqa::PagedCache<T>& cache() { return cache_; }
  const gqa::PagedCache<T>& cache() const { return cache_; }

  /// Feeds every piece in one pass: each token attends to those of its own sequence, and no bit of its result
  /// depends on the others. Throws std::invalid_argument for no pieces, a piece of no tokens, a sequence
  /// given twice or swapped out and an id that is no token, std::out_of_range for an unknown sequence and
  /// std::length_error where the context or the pool is full, with nothing changed.
  void step(std::span<const Piece> pieces);

  /// The scores of every token of the vocabulary as the next one after each of the given pieces of the last
  /// step: a row each, valid until the next call. Throws std::invalid_argument for a piece that was not fed.
  const Matrix& logits(std::span<const Index> pieces);

  Index num_pieces() const { return static_cast<Index>(offsets_.size()) - 1; }  ///< of the last step
  double attention_seconds() const { return forward_.attention_seconds(); }

 private:
  const Hyperparameters& sizes_;
  gqa::PoolExecutor executor_;
  Forward forward_;
  gqa::PagedCache<T> cache_;
  gqa::Workspace workspace_;
  std::vector<Index> offsets_ = {0};  // piece i of the last step has the tokens offsets[i] to offsets[i + 1]
};

extern template class Batch<float>;
extern template class Batch<gqa::half>;
extern template class Batch<gqa::bfloat16>;

/// Calls f.operator()<T>() with the type of a cache's elements.
template <class F>
decltype(auto) with_scalar(CacheType type, F&& f) {
  switch (type) {
    case CacheType::f16:
      return f.template operator()<gqa::half>();
    case CacheType::bf16:
      return f.template operator()<gqa::bfloat16>();
    case CacheType::f32:
      break;
  }
  return f.template operator()<float>();
}

}  // namespace generate
