// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <span>  // with the concepts of ranges, and without their views
#include <string>

#include "gqa/core/tensor.hpp"

namespace gqa {

/// Sequences of different lengths in one packed tensor, tokens x heads x dim: sequence i has the tokens
/// `offsets[i]` to `offsets[i + 1]`. Equal offsets make an empty sequence. Refers to both, owning neither.
template <class T>
struct Ragged {
  TensorView<T> tensor;
  std::span<const Index> offsets;

  Index num_seqs() const { return static_cast<Index>(offsets.size()) - 1; }
  Index begin(Index seq) const { return offsets[static_cast<std::size_t>(seq)]; }
  Index tokens(Index seq) const { return begin(seq + 1) - begin(seq); }
};

namespace detail {

/// A range that is gone, with its elements, at the end of the statement.
template <class R>
concept TemporaryRange = std::ranges::range<R> && !std::ranges::borrowed_range<R>;

/// `count` things, called `of`, lie between the offsets.
inline void check_offsets(const std::string& name, std::span<const Index> offsets, Index count,
                          const char* of) {
  GQA_CHECK(!offsets.empty(), std::invalid_argument,
            name << ": no offsets, expected one more than sequences");
  GQA_CHECK(offsets.front() == 0, std::invalid_argument,
            name << ": offsets begin at " << offsets.front() << ", expected 0");
  for (std::size_t i = 1; i < offsets.size(); ++i)
    GQA_CHECK(offsets[i] >= offsets[i - 1], std::invalid_argument,
              name << ": offsets[" << i << "] is " << offsets[i] << ", expected at least the "
                   << offsets[i - 1] << " before it");
  GQA_CHECK(offsets.back() == count, std::invalid_argument,
            name << ": offsets end at " << offsets.back() << ", expected the " << count << " " << of);
}

}  // namespace detail

/// The sequences of a packed tensor (tokens x heads x dim). Keeps pointers to both, so temporaries that own
/// their memory do not compile. Throws std::invalid_argument where offsets do not begin at 0, decrease, or do
/// not end at the tensor's tokens.
template <TensorLike X>
auto ragged(X&& packed, std::span<const Index> offsets) requires(!detail::TemporaryTensor<X>) {
  const auto view = as_view(packed);
  GQA_CHECK(view.batch == 1, std::invalid_argument, "ragged: batch is " << view.batch << ", expected 1");
  detail::check_offsets("ragged", offsets, view.tokens, "tokens of the tensor");
  return Ragged<typename std::remove_cvref_t<decltype(view)>::value_type>{view, offsets};
}
template <TensorLike X, class Offsets>
requires detail::TemporaryTensor<X> || detail::TemporaryRange<Offsets>
void ragged(X&&, Offsets&&) = delete;
template <TensorLike X>
void ragged(X&&, std::initializer_list<Index>) = delete;

namespace detail {

template <class X>
inline constexpr bool is_ragged = false;
template <class T>
inline constexpr bool is_ragged<Ragged<T>> = true;

}  // namespace detail

/// What ragged() makes.
template <class X>
concept RaggedLike = detail::is_ragged<std::remove_cvref_t<X>>;

}  // namespace gqa
