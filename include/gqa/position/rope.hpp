// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/core/shape.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/position/in_place.hpp"
#include "gqa/position/rope_scaling.hpp"
#include "gqa/position/rotate.hpp"

namespace gqa {

/// What a rotary embedding is; the layout has no default, so a configuration without it does not compile.
struct RopeConfig {
  class Layout {
   public:
    constexpr Layout(RopeLayout layout) : layout_(layout) {}
    constexpr operator RopeLayout() const { return layout_; }

   private:
    RopeLayout layout_;
  };

  Layout layout;
  Index head_dim;
  Index rotary_dim = head_dim;  ///< leading elements of a head that are rotated; the others pass through
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none();
};

/// Rotary position embedding (Su et al. 2021). At position p the i-th pair (a, b) of a head becomes
///   m (a cos(p omega_i) - b sin(p omega_i),  a sin(p omega_i) + b cos(p omega_i)),
/// omega_i = theta^(-2i / rotary_dim) changed by the scaling, m its attention factor (1 for most). Then
/// <R(p) q, R(s) k> depends on p - s alone. Angles are reduced in double precision: an angle is wrong by at
/// most about p * 2^-52, below 1e-10 at 131,072 tokens.
///
/// Tensors are tokens x heads x head_dim (or batch first), changed in place; cos and sin are computed once a
/// token and shared by its heads. To rotate many tensors at the same positions (the layers of a model), keep
/// a RopeTable.
class Rope {
 public:
  /// Throws std::invalid_argument naming the parameter: rotary_dim odd, below 2 or above head_dim, theta not
  /// positive, or a scaling not defined for them.
  explicit Rope(const RopeConfig& config) : config_(config) {
    detail::rotary::check_dims(config.head_dim, config.rotary_dim);
    inverse_frequencies_ = config.scaling.inverse_frequencies(config.rotary_dim, config.theta);
    attention_factor_ = config.scaling.attention_factor();
  }

  const RopeConfig& config() const { return config_; }
  Index pairs() const { return config_.rotary_dim / 2; }

  /// omega_i, the angle per position of pair i, in radians; fastest first.
  std::span<const double> inverse_frequencies() const { return inverse_frequencies_; }
  double attention_factor() const { return attention_factor_; }

  /// x <- R x, token t being at position first_position + t in every batch. Throws std::invalid_argument for
  /// another head_dim or a negative position, x unchanged.
  template <TensorLike X>
  void apply(X&& x, Index first_position) const {
    rotate<detail::rotary::Turn::forward>(x, first_position, attention_factor_);
  }

  /// x <- R x, token t of batch b being at positions[t], or at positions[b * tokens + t] where there are
  /// batch * tokens of them. Throws std::invalid_argument as above, and for any other number of positions.
  template <TensorLike X>
  void apply(X&& x, std::span<const Index> positions) const {
    rotate<detail::rotary::Turn::forward>(x, positions, attention_factor_);
  }

  /// x <- R^-1 x: undoes apply() up to rounding.
  template <TensorLike X>
  void apply_inverse(X&& x, Index first_position) const {
    rotate<detail::rotary::Turn::backward>(x, first_position, 1 / attention_factor_);
  }
  template <TensorLike X>
  void apply_inverse(X&& x, std::span<const Index> positions) const {
    rotate<detail::rotary::Turn::backward>(x, positions, 1 / attention_factor_);
  }

  /// x <- R^T x: takes the gradient of apply()'s result to that of its argument. The inverse rotation, but
  /// multiplied by the attention factor where the inverse divides by it.
  template <TensorLike X>
  void apply_transpose(X&& x, Index first_position) const {
    rotate<detail::rotary::Turn::backward>(x, first_position, attention_factor_);
  }
  template <TensorLike X>
  void apply_transpose(X&& x, std::span<const Index> positions) const {
    rotate<detail::rotary::Turn::backward>(x, positions, attention_factor_);
  }

  /// Writes gain * cos and gain * sin of the angles at `position`, pairs() of each.
  template <class Acc>
  void angles(Index position, double gain, Acc* cos, Acc* sin) const {
    for (std::size_t i = 0; i < inverse_frequencies_.size(); ++i) {
      const double angle = static_cast<double>(position) * inverse_frequencies_[i];
      cos[i] = static_cast<Acc>(gain * std::cos(angle));
      sin[i] = static_cast<Acc>(gain * std::sin(angle));
    }
  }

  /// Throws std::invalid_argument unless positions first, ..., first + count - 1 are all valid.
  static void check_positions(Index first, Index count) {
    GQA_CHECK(first >= 0, std::invalid_argument, "rope: position is " << first << ", expected at least 0");
    Index end = 0;
    GQA_CHECK(!__builtin_add_overflow(first, count, &end), std::invalid_argument,
              "rope: position is " << first << ", and " << count << " more overflow");
  }
  static void check_positions(std::span<const Index> positions) {
    for (std::size_t i = 0; i < positions.size(); ++i)
      GQA_CHECK(positions[i] >= 0, std::invalid_argument,
                "rope: position " << i << " is " << positions[i] << ", expected at least 0");
  }

 private:
  // The cos and sin of the position asked for last.
  template <class Acc>
  class OnePosition {
   public:
    OnePosition(const Rope& rope, double gain)
        : rope_(rope), gain_(gain), values_(2 * rope.inverse_frequencies_.size()) {}

    detail::rotary::Row<Acc> at(Index position) {
      Acc* const cos = values_.data();
      Acc* const sin = cos + rope_.pairs();
      if (position != position_) rope_.angles(position, gain_, cos, sin);
      position_ = position;
      return {cos, sin};
    }

   private:
    const Rope& rope_;
    double gain_;
    Index position_ = -1;
    std::vector<Acc> values_;
  };

  template <detail::rotary::Turn Direction, TensorLike X>
  void rotate(X& x, Index first_position, double gain) const {
    const auto view = detail::in_place_view(x, config_.head_dim);
    check_positions(first_position, view.tokens);
    OnePosition<Accumulator<TensorScalar<X>>> row(*this, gain);
    detail::rotary::rotate<Direction>(view, config_.layout, pairs(),
                                      [&](Index, Index t) { return row.at(first_position + t); });
  }

  template <detail::rotary::Turn Direction, TensorLike X>
  void rotate(X& x, std::span<const Index> positions, double gain) const {
    const auto view = detail::in_place_view(x, config_.head_dim);
    const Index batch_step = detail::rotary::batch_step_of(view, static_cast<Index>(positions.size()));
    check_positions(positions);
    OnePosition<Accumulator<TensorScalar<X>>> row(*this, gain);
    detail::rotary::rotate<Direction>(view, config_.layout, pairs(), [&](Index b, Index t) {
      return row.at(positions[static_cast<std::size_t>(b * batch_step + t)]);
    });
  }

  RopeConfig config_;
  std::vector<double> inverse_frequencies_;
  double attention_factor_ = 1;
};

}  // namespace gqa
