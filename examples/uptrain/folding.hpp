// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "shape.hpp"

namespace uptrain {

/// A model of few KV heads, each the sum of those of a group, times factors that are learned with them (WGQA,
/// Chinnakonduru and Mohapatra 2024, arXiv 2407.10855): in each layer
///
///     K_g = sum over h of group g of a_h K_h,   V_g = sum of b_h V_h.
///
/// While it is trained its parameters are the factors a and b of all layers, and then all those of the model
/// with as many KV heads as query heads; fold() makes of them the parameters of the model that it is.
class Folding {
 public:
  /// Groups of neighbours. Throws std::invalid_argument as Places does.
  Folding(const Shape& mha, Index kv_heads)
      : from_shape_(mha), to_shape_(mha.with_kv_heads(kv_heads)), from_(from_shape_), to_(to_shape_) {}

  /// Of keys and of values, in each layer.
  Index factors() const { return 2 * from_shape_.layers * from_shape_.num_kv_heads; }
  Index size() const { return factors() + from_.size; }
  /// Where factors and gains end and matrices begin.
  Index matrices() const { return factors() + from_.matrices; }
  /// Where K_h's factor is, of a layer; V_h's is num_kv_heads() further.
  Index factor(std::size_t layer, Index head) const {
    return 2 * static_cast<Index>(layer) * from_shape_.num_kv_heads + head;
  }

  /// Where the mean is all that has been learned: 1 / the group's size everywhere.
  std::vector<float> initial(std::span<const float> mha) const {
    std::vector<float> all(static_cast<std::size_t>(factors()),
                           1 / static_cast<float>(from_shape_.num_kv_heads / to_shape_.num_kv_heads));
    all.insert(all.end(), mha.begin(), mha.end());
    return all;
  }

  void fold(std::span<const float> all, std::vector<float>& folded) const {
    folded.assign(static_cast<std::size_t>(to_.size), 0.0F);
    each_alike(
        [&](Index at, Index to, Index count) { std::copy_n(all.begin() + at, count, folded.begin() + to); });
    each_head([&](Index factor, Index at, Index to, Index count) {
      const float a = all[static_cast<std::size_t>(factor)];
      for (Index i = 0; i < count; ++i) folded[index(to + i)] += a * all[index(at + i)];
    });
  }

  /// From the gradient by what fold() gave: by W_h that by W_g times a_h, and by a_h its product with W_h.
  void fold_backward(std::span<const float> all, std::span<const float> d_folded,
                     std::span<float> d_all) const {
    each_alike([&](Index at, Index to, Index count) {
      std::copy_n(d_folded.begin() + to, count, d_all.begin() + at);
    });
    each_head([&](Index factor, Index at, Index to, Index count) {
      double sum = 0;
      for (Index i = 0; i < count; ++i) {
        const float d = d_folded[index(to + i)];
        d_all[index(at + i)] = all[index(factor)] * d;
        sum += static_cast<double>(d) * static_cast<double>(all[index(at + i)]);
      }
      d_all[index(factor)] = static_cast<float>(sum);
    });
  }

 private:
  static std::size_t index(Index i) { return static_cast<std::size_t>(i); }

  /// f(first in all, first in folded, count) of all that is not summed.
  template <class F>
  void each_alike(F&& f) const {
    const Index width = from_shape_.width, hidden = from_shape_.hidden, first = factors();
    f(first, Index{0}, from_.matrices);
    f(first + from_.embedding, to_.embedding, from_shape_.vocabulary * width);
    for (std::size_t l = 0; l < from_.layers.size(); ++l) {
      const Places::Layer &a = from_.layers[l], &b = to_.layers[l];
      f(first + a.qkv, b.qkv, width * width);  // the queries
      f(first + a.out, b.out, width * width);
      f(first + a.gate_up, b.gate_up, 2 * hidden * width);
      f(first + a.down, b.down, width * hidden);
    }
    f(first + from_.head, to_.head, from_shape_.vocabulary * width);
  }
  /// f(its factor, first in all, first of its group in folded, count) of each head of keys or values.
  template <class F>
  void each_head(F&& f) const {
    const Index width = from_shape_.width, heads = from_shape_.num_kv_heads;
    const Index count = from_shape_.head_dim() * width, group = heads / to_shape_.num_kv_heads;
    for (std::size_t l = 0; l < from_.layers.size(); ++l) {
      const Index from = factors() + from_.layers[l].qkv + width * width,
                  to = to_.layers[l].qkv + width * width;
      for (Index side = 0; side < 2; ++side)
        for (Index h = 0; h < heads; ++h)
          f(factor(l, side * heads + h), from + (side * heads + h) * count,
            to + (side * to_shape_.num_kv_heads + h / group) * count, count);
    }
  }

  Shape from_shape_, to_shape_;
  Places from_, to_;
};

}  // namespace uptrain
