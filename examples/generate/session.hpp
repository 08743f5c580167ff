// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "forward.hpp"
#include "gqa/core/parallel.hpp"
#include "gqa/core/tensor.hpp"
#include "model.hpp"
#include "vocabulary.hpp"

namespace generate {

/// One sequence of tokens as a model sees it: its KV cache, and the hidden states of the tokens fed last.
/// Each token is computed once; later ones read its keys and values from the cache.
class Session {
 public:
  virtual ~Session() = default;

  /// Feeds the tokens that come next. Throws std::length_error when the model's context is full and
  /// std::invalid_argument for an id that is no token, with nothing changed.
  virtual void append(std::span<const TokenId> tokens) = 0;

  /// Feeds tokens that branch: `parents[i]` is the token before token i, -1 for one that follows the last
  /// token there is. Each sees that one, its ancestors and what was there before, at its depth's position;
  /// sizes and truncate() count them in the order given. Those of a first branch that is given first are
  /// what append() makes of them to the bit. Throws as append() does, and std::invalid_argument for parents
  /// that are no tree (see gqa::tree).
  virtual void append_tree(std::span<const TokenId> tokens, std::span<const Index> parents) = 0;

  /// The scores of every token of the vocabulary as the next one, after the last token fed: valid until the
  /// next call.
  virtual std::span<const float> logits() = 0;
  /// The same after each token of the last append(): a row each.
  virtual const Matrix& all_logits() = 0;

  virtual Index size() const = 0;                ///< tokens fed
  virtual Index cache_bytes() const = 0;         ///< bytes of their keys and values
  virtual double attention_seconds() const = 0;  ///< spent in attention and in writing to the cache
  virtual void truncate(Index n) = 0;            ///< forgets all but the first n tokens
  virtual void clear() = 0;                      ///< forgets all tokens; times go on

  /// Keeps the tokens' keys and values in a file, from which a session of the same model and cache goes on:
  /// see gqa::save and gqa::restore, and what they throw. The label says which model it is, see identity().
  /// Throws std::invalid_argument where this program was built without xxHash.
  virtual void save(const std::filesystem::path& path, std::string_view label) const = 0;
  virtual void load(const std::filesystem::path& path, std::string_view label) = 0;
};

enum class CacheType { f32, f16, bf16 };

/// Where a session keeps keys and values: they are the same, and the text is. A ring keeps of the layers that
/// have a sliding window what it can see.
enum class CacheKind { contiguous, paged, ring };

/// What --cache-dtype and --cache call them.
const char* type_name(CacheType type);
const char* kind_name(CacheKind kind);

/// Called after a layer's attention with its queries, keys and values and what they gave: the layer goes on
/// with what is there then.
using AttentionHook = Attend;

/// Tokens that a session in a ring can be fed at once.
inline constexpr Index ring_span = 512;

/// A session of a model, which must outlive it, with a cache of the given element type. Throws
/// std::invalid_argument for a ring where the model has no sliding window.
std::unique_ptr<Session> make_session(const Model& model, CacheType type, gqa::PoolExecutor executor,
                                      AttentionHook hook = {}, CacheKind kind = CacheKind::contiguous);

}  // namespace generate
