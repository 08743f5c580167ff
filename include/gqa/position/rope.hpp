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
    GQA_CHECK(config.head_dim > 0, std::invalid_argument,
              "rope: head_dim is " << config.head_dim << ", expected a positive number");
    GQA_CHECK(config.rotary_dim >= 2 && config.rotary_dim % 2 == 0 && config.rotary_dim <= config.head_dim,
              std::invalid_argument,
              "rope: rotary_dim is " << config.rotary_dim
                                     << ", expected an even number from 2 to head_dim = " << config.head_dim);
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

/// The cos and sin of some positions, kept by the caller: computed once, applied to the queries and keys of
/// every layer. Results are bit for bit those of Rope. T is the accumulator of the tensors: float for f32,
/// f16 and bf16, double for f64.
///
///   gqa::RopeTable table(rope);
///   for (...) {                      // decode
///     table.assign({position, position + 1});
///     for (each layer) { table.apply(q, position); table.apply(k, position); }
///   }
template <class T = float>
class RopeTable {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "gqa: a RopeTable holds float (for f32, f16 and bf16 tensors) or double (for f64)");

 public:
  explicit RopeTable(Rope rope) : rope_(std::move(rope)) {}
  RopeTable(Rope rope, Range positions) : rope_(std::move(rope)) { assign(positions); }
  RopeTable(Rope rope, std::span<const Index> positions) : rope_(std::move(rope)) { assign(positions); }

  /// Holds the positions of a range, using the memory it has. Throws std::invalid_argument for a negative
  /// position, the table unchanged.
  void assign(Range positions) {
    Rope::check_positions(positions.begin, 0);
    resize(positions.size());
    range_ = {positions.begin, positions.begin + positions.size()};
    for (Index i = 0; i < rows_; ++i) fill(i, positions.begin + i);
  }

  /// Holds the given positions in the given order (one for each sequence of a ragged batch, say).
  void assign(std::span<const Index> positions) {
    Rope::check_positions(positions);
    resize(static_cast<Index>(positions.size()));
    range_ = {};
    for (Index i = 0; i < rows_; ++i) fill(i, positions[static_cast<std::size_t>(i)]);
  }

  const Rope& rope() const { return rope_; }
  Index size() const { return rows_; }    ///< number of positions held
  Range range() const { return range_; }  ///< the range held; empty when assigned from a list
  std::size_t bytes() const { return values_.size() * sizeof(T); }

  /// x <- R x, token t being at position first_position + t. Throws std::invalid_argument for another
  /// head_dim and for positions outside range(), x unchanged.
  template <TensorLike X>
  void apply(X&& x, Index first_position) const {
    rotate<detail::rotary::Turn::forward>(x, first_position);
  }

  /// x <- R x, token t of batch b being at the t-th position held, or at the (b * tokens + t)-th where
  /// batch * tokens are held. Throws std::invalid_argument for any other number of tokens.
  template <TensorLike X>
  void apply(X&& x) const {
    rotate<detail::rotary::Turn::forward>(x);
  }

  /// x <- R^T x, the gradient of apply(); its inverse where the attention factor is 1.
  template <TensorLike X>
  void apply_transpose(X&& x, Index first_position) const {
    rotate<detail::rotary::Turn::backward>(x, first_position);
  }
  template <TensorLike X>
  void apply_transpose(X&& x) const {
    rotate<detail::rotary::Turn::backward>(x);
  }

 private:
  void resize(Index rows) {
    const Index width = checked_mul(2, rope_.pairs(), "rope table");
    values_.resize(static_cast<std::size_t>(checked_mul(rows, width, "rope table")));
    rows_ = rows;
  }

  void fill(Index row, Index position) {
    T* const cos = values_.data() + 2 * row * rope_.pairs();
    rope_.angles(position, rope_.attention_factor(), cos, cos + rope_.pairs());
  }

  detail::rotary::Row<T> row(Index i) const {
    const T* const cos = values_.data() + 2 * i * rope_.pairs();
    return {cos, cos + rope_.pairs()};
  }

  template <TensorLike X>
  auto checked_view(X& x) const {
    static_assert(std::is_same_v<Accumulator<TensorScalar<X>>, T>,
                  "gqa: a RopeTable<float> is for f32, f16 and bf16 tensors, a RopeTable<double> for f64");
    return detail::in_place_view(x, rope_.config().head_dim);
  }

  template <detail::rotary::Turn Direction, TensorLike X>
  void rotate(X& x, Index first_position) const {
    const auto view = checked_view(x);
    Rope::check_positions(first_position, view.tokens);
    GQA_CHECK(
        view.tokens == 0 || (range_.begin <= first_position && first_position + view.tokens <= range_.end),
        std::invalid_argument,
        "x: positions are [" << first_position << ", " << first_position + view.tokens
                             << "), expected some of the table's [" << range_.begin << ", " << range_.end
                             << ")");
    detail::rotary::rotate<Direction>(view, rope_.config().layout, rope_.pairs(),
                                      [&](Index, Index t) { return row(first_position - range_.begin + t); });
  }

  template <detail::rotary::Turn Direction, TensorLike X>
  void rotate(X& x) const {
    const auto view = checked_view(x);
    const Index batch_step = detail::rotary::batch_step_of(view, rows_);
    detail::rotary::rotate<Direction>(view, rope_.config().layout, rope_.pairs(),
                                      [&](Index b, Index t) { return row(b * batch_step + t); });
  }

  Rope rope_;
  Range range_;
  Index rows_ = 0;
  std::vector<T> values_;
};

}  // namespace gqa
