// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "gqa/kv/paged.hpp"
#include "support/message_of.hpp"

namespace gqa::test {

/// Keys and values that follow from all token ids up to their token, as a model's do: small integers, which
/// every type holds exactly.
class TokenValues {
 public:
  TokenValues(Index layers, Index heads, Index dim, Index value_dim)
      : layers_(layers), heads_(heads), dim_(dim), value_dim_(value_dim) {}

  Index layers() const { return layers_; }

  template <class T>
  struct Rows {
    Eigen::Tensor<T, 3, Eigen::RowMajor> k, v;
  };
  /// Of the tokens at `positions` of a sequence with these ids.
  template <class T>
  Rows<T> rows(std::span<const TokenId> ids, Range positions, Index layer) const {
    const Index n = positions.size();
    Rows<T> rows{{n, heads_, dim_}, {n, heads_, value_dim_}};
    std::uint64_t hash = 17;
    for (Index t = 0; t < positions.end; ++t) {
      hash = mix(hash + static_cast<std::uint64_t>(ids[static_cast<std::size_t>(t)]));
      if (t < positions.begin) continue;
      for (Index h = 0; h < heads_; ++h) {
        const auto value = [&](Index d) {
          return static_cast<T>(static_cast<float>(mix(hash + at(layer, h, d)) % 255) - 127);
        };
        for (Index d = 0; d < dim_; ++d) rows.k(t - positions.begin, h, d) = value(d);
        for (Index d = 0; d < value_dim_; ++d) rows.v(t - positions.begin, h, d) = value(1000 + d);
      }
    }
    return rows;
  }

  /// Writes the tokens of a span in every layer.
  template <class T, class Write>
  void write(std::span<const TokenId> ids, Range positions, Write&& write) const {
    for (Index layer = 0; layer < layers_; ++layer) {
      const Rows<T> r = rows<T>(ids, positions, layer);
      write(layer, r.k, r.v);
    }
  }

  /// What is wrong with what `read(layer, positions, k, v)` gives; empty: nothing.
  template <class T, class Read>
  std::string difference(std::span<const TokenId> ids, Read&& read) const {
    const Range all = {0, static_cast<Index>(ids.size())};
    for (Index layer = 0; layer < layers_; ++layer) {
      const Rows<T> expected = rows<T>(ids, all, layer);
      Rows<T> found{{all.size(), heads_, dim_}, {all.size(), heads_, value_dim_}};
      read(layer, all, found.k, found.v);
      for (const auto& [a, b] : {std::pair{&expected.k, &found.k}, std::pair{&expected.v, &found.v}})
        for (Index i = 0; i < a->size(); ++i)
          if (!(a->data()[i] == b->data()[i]))
            return "element " + std::to_string(i) + " of layer " + std::to_string(layer) + " is " +
                   std::to_string(static_cast<float>(b->data()[i])) + ", expected " +
                   std::to_string(static_cast<float>(a->data()[i]));
    }
    return {};
  }

 private:
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
  }
  static std::uint64_t at(Index layer, Index head, Index d) {
    return static_cast<std::uint64_t>(layer * 1000003 + head * 10007 + d + 1);
  }

  Index layers_, heads_, dim_, value_dim_;
};

}  // namespace gqa::test
