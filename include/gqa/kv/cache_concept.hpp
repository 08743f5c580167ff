// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/sequence.hpp"
#include "gqa/kv/view.hpp"

namespace gqa {

/// A cache of keys and values for all layers of a model: what every member of the family models.
///
/// One pass of a model: `span = extend(n)` once, then for each layer `write(layer, span, k, v)` and attention
/// over `layer(i)`. `truncate(n)` forgets all but the first n tokens in every layer, `clear()` all of them;
/// `read(layer, positions, k, v)` gives tokens back as they are held. Each either happens or throws and
/// leaves the cache as it was: std::length_error beyond `capacity()` tokens, std::out_of_range for an absent
/// layer, std::invalid_argument for wrong sizes, spans that are no longer valid, gaps, and tokens that are
/// not there. `bytes()` is what the tokens there are take, `bytes_per_token() * size()` where all are alike;
/// `allocated_bytes()` what has been taken from the system for them. Not safe for concurrent writing; any
/// number of threads may read.
template <class C>
concept Cache = requires(C& cache, const C& held, Index n, Range positions, const Span& span,
                         TensorView<const typename C::Scalar> in, TensorView<typename C::Scalar> out) {
  { cache.extend(n) } -> std::same_as<Span>;
  cache.write(n, span, in, in);
  cache.truncate(n);
  cache.clear();
  held.read(n, positions, out, out);
  { held.layer(n) } -> KVView;
  { held.size() } -> std::same_as<Index>;
  { held.capacity() } -> std::same_as<Index>;
  { held.num_layers() } -> std::same_as<Index>;
  { held.num_kv_heads() } -> std::same_as<Index>;
  { held.head_dim() } -> std::same_as<Index>;
  { held.value_dim() } -> std::same_as<Index>;
  { held.bytes() } -> std::same_as<Index>;
  { held.allocated_bytes() } -> std::same_as<Index>;
};

/// What attention takes in place of k and v: a view, or a cache of one layer.
template <class X>
concept KVLike = KVView<std::remove_cvref_t<X>> || Cache<std::remove_cvref_t<X>>;

/// The view itself, by reference (a list of views is not to be copied with every call), or the only layer of
/// a cache. Throws std::invalid_argument for a cache of more.
template <KVLike X>
decltype(auto) as_kv_view(const X& x) {
  if constexpr (Cache<X>) {
    GQA_CHECK(x.num_layers() <= 1, std::invalid_argument,
              "cache: num_layers is " << x.num_layers() << ", expected 1; use cache.layer(i)");
    return x.layer(0);
  } else {
    return (x);
  }
}
template <KVView X>
void as_kv_view(const X&&) = delete;

}  // namespace gqa
