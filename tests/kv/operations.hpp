// SPDX-License-Identifier: Apache-2.0
// What models of caches share: operations as numbers, what a call comes to, and tokens as rows. Neither
// GoogleTest's nor RapidCheck's, so that fuzzers run the same models.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/kv/packed_tokens.hpp"
#include "gqa/kv/sequence.hpp"

namespace gqa::test {

/// What is done, and three numbers that say to what and how much: the first below 256, the others below 1000.
using Operation = std::array<int, 4>;

/// The operations that some bytes stand for.
inline std::vector<Operation> operations_of(std::span<const std::uint8_t> bytes, int num_kinds) {
  std::vector<Operation> all;
  for (; bytes.size() >= 6; bytes = bytes.subspan(6))
    all.push_back({bytes[0] % num_kinds, bytes[1], (bytes[2] * 256 + bytes[3]) % 1000,
                   (bytes[4] * 256 + bytes[5]) % 1000});
  return all;
}

/// A cache is not what its model says. Of no type that a cache throws.
struct Difference {
  std::string what;
};
inline void require(bool holds, const std::string& what) {
  if (!holds) throw Difference{what};
}
template <class A, class B>
void require_equal(const A& found, const B& expected, const char* what) {
  if (found != static_cast<A>(expected))
    throw Difference{std::string(what) + " is " + std::to_string(found) + ", expected " +
                     std::to_string(expected)};
}

enum class Outcome { happens, invalid, too_long, absent, broken };
inline const char* name_of(Outcome outcome) {
  return std::array{"happens", "invalid_argument", "length_error", "out_of_range",
                    "format_error"}[static_cast<std::size_t>(outcome)];
}

/// Calls f, which is to happen or to throw. Whether it changed anything is seen by comparing all.
template <class F>
void expect(Outcome expected, const char* what, F&& f) {
  Outcome found = Outcome::happens;
  std::string message;
  const auto caught = [&](Outcome outcome, const std::exception& error) {
    found = outcome;
    message = error.what();
  };
  try {
    f();
  } catch (const format_error& error) {
    caught(Outcome::broken, error);
  } catch (const std::length_error& error) {
    caught(Outcome::too_long, error);
  } catch (const std::out_of_range& error) {
    caught(Outcome::absent, error);
  } catch (const std::invalid_argument& error) {
    caught(Outcome::invalid, error);
  }
  require(found == expected,
          std::string(what) + ": " + name_of(found) + " " + message + ", expected " + name_of(expected));
}

/// Element d of a token, of its keys or (from dim 1000 on) its values: a function of the token's number.
/// None is 0.
template <class T>
T element_of(int token, Index layer, Index head, Index d) {
  auto x = static_cast<std::uint64_t>(((token * 67 + layer) * 61 + head) * 2003 + d);
  x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
  return static_cast<T>(static_cast<float>((x >> 40) % 127 + 1) * (x >> 63 ? 1.f : -1.f));
}

/// Tokens of one layer, tokens x heads x dims.
template <class T>
struct TokenRows {
  detail::LayerShape shape;
  Index size;
  std::vector<T> k, v;

  TokenRows(const detail::LayerShape& s, Index n)
      : shape(s),
        size(n),
        k(static_cast<std::size_t>(n * s.num_kv_heads * s.head_dim)),
        v(static_cast<std::size_t>(n * s.num_kv_heads * s.value_dim)) {}
  TokenRows(const detail::LayerShape& s, Index layer, std::span<const int> tokens)
      : TokenRows(s, std::ssize(tokens)) {
    auto to_k = k.begin(), to_v = v.begin();
    for (const int token : tokens)
      for (Index head = 0; head < s.num_kv_heads; ++head) {
        for (Index d = 0; d < s.head_dim; ++d) *to_k++ = element_of<T>(token, layer, head, d);
        for (Index d = 0; d < s.value_dim; ++d) *to_v++ = element_of<T>(token, layer, head, 1000 + d);
      }
  }

  auto keys() const { return TensorView<const T>(k.data(), size, shape.num_kv_heads, shape.head_dim); }
  auto values() const { return TensorView<const T>(v.data(), size, shape.num_kv_heads, shape.value_dim); }
  auto keys() { return TensorView<T>(k.data(), size, shape.num_kv_heads, shape.head_dim); }
  auto values() { return TensorView<T>(v.data(), size, shape.num_kv_heads, shape.value_dim); }
};

inline std::span<const int> part_of(const std::vector<int>& tokens, Range positions) {
  return std::span(tokens).subspan(static_cast<std::size_t>(positions.begin),
                                   static_cast<std::size_t>(positions.size()));
}

/// One layer of a sequence has these tokens, of which it retains those at some positions:
/// `read(positions, k, v)` gives them, and the view has them for attention.
template <class T, class View, class Read>
void require_layer(const View& view, Index seq, Index layer, const detail::LayerShape& shape,
                   const std::vector<int>& tokens, const Ranges& retained, Read&& read,
                   bool zero_beside = true) {
  require(Ranges(view.retained(seq)) == retained, "a view shows what is retained");
  for (const Range r : retained) {
    TokenRows<T> found(shape, r.size());
    read(r, found.keys(), found.values());
    const TokenRows<T> expected(shape, layer, part_of(tokens, r));
    require(found.k == expected.k, "keys of layer " + std::to_string(layer));
    require(found.v == expected.v, "values of layer " + std::to_string(layer));
  }
  const Range last = retained[retained.size() - 1];
  const Index end = last.end;
  if (element_group<T> != 2 || end % 2 == 0 || last.empty()) return;
  // The last token's values stand beside those of one that is not there: kernels multiply these by 0.
  for (Index head = 0; head < shape.num_kv_heads; ++head) {
    const Index begin = std::max(last.begin, round_down(end - 1, simd::padding));
    const KVTile tile = view.tile(seq, head, {begin, end}, nullptr);
    const T* pairs = tile.v.template as<T>() + (end - 1 - begin) / 2 * tile.v.stride;
    for (Index d = 0; d < shape.value_dim; ++d)
      require(pairs[2 * d] == element_of<T>(tokens[static_cast<std::size_t>(end - 1)], layer, head, 1000 + d),
              "the last token's values in a tile");
    for (Index d = 0; d < shape.value_dim; ++d)
      require(!zero_beside || pairs[2 * d + 1] == T{}, "values beside the last token are 0");
  }
}

/// A cache's tokens in the caller's memory.
struct Packed {
  std::vector<detail::PackedLayer> layers;
  std::vector<std::byte> bytes;
};
template <class C>
Packed pack(const C& cache) {
  Packed packed{detail::packed_layers(cache), {}};
  for (std::size_t i = 0; i < packed.layers.size(); ++i)
    detail::write_section(cache, static_cast<Index>(i), packed.layers[i],
                          [&](std::span<const std::span<const std::byte>> pieces) {
                            for (const auto piece : pieces)
                              packed.bytes.insert(packed.bytes.end(), piece.begin(), piece.end());
                          });
  return packed;
}
/// Where it is damaged, what comes last is not what was written.
template <class C>
void unpack(C& cache, const Packed& packed, bool damaged = false) {
  const std::byte* from = packed.bytes.data();
  detail::read_sections(
      cache, std::span<const detail::PackedLayer>(packed.layers),
      [&](std::span<const std::span<std::byte>> pieces) {
        for (const auto piece : pieces) {
          std::memcpy(piece.data(), from, piece.size());
          from += piece.size();
        }
      },
      [&](Index layer) {
        if (damaged && layer + 1 == std::ssize(packed.layers)) throw format_error("it is damaged");
      });
}

/// The bytes that blocks of whole tiles take for this many tokens.
template <class T>
Index block_bytes(const detail::LayerShape& s, Index layers, Index tokens) {
  return layers * s.num_kv_heads * (round_up(s.head_dim, element_group<T>) + round_up(s.value_dim, 16)) *
         tokens * Index{sizeof(T)};
}
template <class T>
Index token_bytes(const detail::LayerShape& s, Index layers) {
  return layers * s.num_kv_heads * (s.head_dim + s.value_dim) * Index{sizeof(T)};
}

}  // namespace gqa::test
