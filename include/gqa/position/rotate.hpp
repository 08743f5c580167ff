// SPDX-License-Identifier: Apache-2.0
// The rotation itself: pairs of elements turned by angles whose cos and sin are given.
#pragma once

#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/rounded.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/core/shape.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

// GCC warns that the enumerator `half` shadows the type, although it is always qualified.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
/// Which two elements of a head form pair i of the rotary_dim / 2.
enum class RopeLayout {
  half,         ///< (x[i], x[i + rotary_dim / 2]): NeoX, Hugging Face
  interleaved,  ///< (x[2i], x[2i + 1]): GPT-J, Meta, the rows of a GGUF file of architecture `llama`
};
#pragma GCC diagnostic pop

namespace detail::rotary {

/// cos and sin of one position's angles, one each a pair.
template <class Acc>
struct Row {
  const Acc* cos;
  const Acc* sin;
};

enum class Turn { forward, backward };

// 16 bytes, which every processor this runs on has registers for. Wider ones would gain little: with the trig
// done, a rotation waits for memory.
template <class Acc>
using Lanes [[gnu::vector_size(16)]] = Acc;
template <class Acc>
inline constexpr Index num_lanes = 16 / static_cast<Index>(sizeof(Acc));

template <class Acc>
inline Lanes<Acc> load_lanes(const Acc* from) {
  Lanes<Acc> lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
template <class Acc>
inline void store_lanes(Acc* to, Lanes<Acc> lanes) {
  std::memcpy(to, &lanes, sizeof lanes);
}

// (a0 b0 a1 b1 ...) in two vectors <-> (a0 a1 ...) and (b0 b1 ...).
template <class Acc>
inline void split_pairs(Lanes<Acc>& x, Lanes<Acc>& y) {
  const Lanes<Acc> low = x, high = y;
  if constexpr (num_lanes<Acc> == 4) {
    x = __builtin_shufflevector(low, high, 0, 2, 4, 6);
    y = __builtin_shufflevector(low, high, 1, 3, 5, 7);
  } else {
    x = __builtin_shufflevector(low, high, 0, 2);
    y = __builtin_shufflevector(low, high, 1, 3);
  }
}
template <class Acc>
inline void join_pairs(Lanes<Acc>& x, Lanes<Acc>& y) {
  const Lanes<Acc> a = x, b = y;
  if constexpr (num_lanes<Acc> == 4) {
    x = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    y = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  } else {
    x = __builtin_shufflevector(a, b, 0, 2);
    y = __builtin_shufflevector(a, b, 1, 3);
  }
}

template <Turn Direction, class V>
inline void turn(V& a, V& b, V cos, V sin) {
  const V x = a, y = b;
  if constexpr (Direction == Turn::forward) {
    a = rounded(x * cos) - rounded(y * sin);
    b = rounded(x * sin) + rounded(y * cos);
  } else {
    a = rounded(x * cos) + rounded(y * sin);
    b = rounded(y * cos) - rounded(x * sin);
  }
}

template <RopeLayout Layout, Turn Direction, class Acc>
inline void rotate_head(Acc* x, Index pairs, Row<Acc> row) {
  constexpr bool interleaved = Layout == RopeLayout::interleaved;
  constexpr Index lanes = num_lanes<Acc>;
  Index i = 0;
  for (; i + lanes <= pairs; i += lanes) {
    Acc* const first = interleaved ? x + 2 * i : x + i;
    Acc* const second = interleaved ? first + lanes : first + pairs;
    Lanes<Acc> a = load_lanes(first), b = load_lanes(second);
    if constexpr (interleaved) split_pairs<Acc>(a, b);
    turn<Direction>(a, b, load_lanes(row.cos + i), load_lanes(row.sin + i));
    if constexpr (interleaved) join_pairs<Acc>(a, b);
    store_lanes<Acc>(first, a);
    store_lanes<Acc>(second, b);
  }
  for (; i < pairs; ++i)
    turn<Direction>(interleaved ? x[2 * i] : x[i], interleaved ? x[2 * i + 1] : x[i + pairs], row.cos[i],
                    row.sin[i]);
}

// Never inlined: one copy of the arithmetic is enough for all that reach it.
template <RopeLayout Layout, Turn Direction, class Acc>
[[gnu::noinline]] void rotate_heads(Acc* x, Index heads, Index head_stride, Index pairs, Row<Acc> row) {
  for (Index h = 0; h < heads; ++h) rotate_head<Layout, Direction>(x + h * head_stride, pairs, row);
}

/// Turns the first 2 * `pairs` elements of every head of x; `row(b, t)` is called token by token, its batches
/// together.
template <Turn Direction, class T, class RowOf>
void rotate(const TensorView<T>& x, RopeLayout layout, Index pairs, RowOf&& row) {
  using Acc = Accumulator<T>;
  const auto turn_heads = layout == RopeLayout::half ? &rotate_heads<RopeLayout::half, Direction, Acc>
                                                     : &rotate_heads<RopeLayout::interleaved, Direction, Acc>;
  if constexpr (std::is_same_v<T, Acc>) {
    for (Index t = 0; t < x.tokens; ++t)
      for (Index b = 0; b < x.batch; ++b) turn_heads(x.at(b, t, 0), x.heads, x.head_stride, pairs, row(b, t));
  } else {  // a head at a time through a copy in Acc
    const simd::ConvertKernels<Accumulator<T>> convert = simd::convert_kernels<T>(isa());
    std::vector<Acc> head(static_cast<std::size_t>(2 * pairs));
    for (Index t = 0; t < x.tokens; ++t)
      for (Index b = 0; b < x.batch; ++b) {
        const Row<Acc> angles = row(b, t);
        for (Index h = 0; h < x.heads; ++h) {
          convert.widen(x.at(b, t, h), 2 * pairs, 1, head.data());
          turn_heads(head.data(), 1, 0, pairs, angles);
          convert.narrow(head.data(), 2 * pairs, 1, x.at(b, t, h));
        }
      }
  }
}

/// Throws std::invalid_argument unless the first `rotary_dim` elements of a head come in pairs.
inline void check_dims(Index head_dim, Index rotary_dim) {
  GQA_CHECK(head_dim > 0, std::invalid_argument,
            "rope: head_dim is " << head_dim << ", expected a positive number");
  GQA_CHECK(
      rotary_dim >= 2 && rotary_dim % 2 == 0 && rotary_dim <= head_dim, std::invalid_argument,
      "rope: rotary_dim is " << rotary_dim << ", expected an even number from 2 to head_dim = " << head_dim);
}

/// How many of `count` positions belong to one batch: all of them where batches share their positions (0), or
/// a batch's own tokens. Throws std::invalid_argument for a count that is neither.
template <class T>
Index batch_step_of(const TensorView<T>& x, Index count) {
  GQA_CHECK(count == x.tokens || count == x.batch * x.tokens, std::invalid_argument,
            "positions: size is " << count << ", expected the " << x.tokens << " tokens of x"
                                  << " or the " << x.batch * x.tokens << " of all its batches");
  return count == x.tokens ? 0 : x.tokens;
}

}  // namespace detail::rotary

}  // namespace gqa
