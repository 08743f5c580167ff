// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
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
#include "gqa/position/rope.hpp"
#include "gqa/position/rotate.hpp"

namespace gqa {

/// Which elements of a head a table of given cos and sin rotates.
struct RopeShape {
  RopeConfig::Layout layout;
  Index head_dim;
  Index rotary_dim = head_dim;  ///< leading elements of a head that are rotated; the others pass through
};

namespace detail {

/// Memory of rows of numbers: an Eigen tensor or map of rank 2, or a RowsView.
template <class X>
inline constexpr bool is_table = false;
template <class T>
inline constexpr bool is_table<RowsView<T>> = true;
template <class X>
requires(eigen_tensor<X>::value) inline constexpr bool is_table<X> = eigen_tensor<X>::rank == 2;

template <class X>
concept TableLike = is_table<std::remove_cvref_t<X>>;

}  // namespace detail

/// The cos and sin of some positions, kept by the caller: computed once, applied to the queries and keys of
/// every layer. Results are bit for bit those of Rope. T is the accumulator of the tensors: float for f32,
/// f16 and bf16, double for f64.
///
///   gqa::RopeTable table(rope);
///   for (...) {                      // decode
///     table.assign({position, position + 1});
///     for (each layer) { table.apply(q, position); table.apply(k, position); }
///   }
///
/// Or the cos and sin are the caller's own, read from a model:
///
///   gqa::RopeTable<float> table({.layout = gqa::RopeLayout::half, .head_dim = 128}, cos, sin);
template <class T = float>
class RopeTable {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "gqa: a RopeTable holds float (for f32, f16 and bf16 tensors) or double (for f64)");

 public:
  explicit RopeTable(Rope rope)
      : shape_{rope.config().layout, rope.config().head_dim, rope.config().rotary_dim},
        rope_(std::move(rope)) {}
  RopeTable(Rope rope, Range positions) : RopeTable(std::move(rope)) { assign(positions); }
  RopeTable(Rope rope, std::span<const Index> positions) : RopeTable(std::move(rope)) { assign(positions); }

  /// Given cos and sin, row p being position p: Eigen tensors or maps of rank 2 (column-major ones in
  /// reverse), float, double, half or bfloat16, copied. They are positions x rotary_dim / 2, one number a
  /// pair as in ONNX, or positions x rotary_dim, each number twice where the layout has its pair: the row
  /// twice over for `half`, as in Hugging Face, or each number twice side by side for `interleaved`. Throws
  /// std::invalid_argument for other sizes, and where the two numbers of a pair differ.
  template <detail::TableLike Cos, detail::TableLike Sin>
  RopeTable(const RopeShape& shape, const Cos& cos, const Sin& sin) : shape_(shape) {
    detail::rotary::check_dims(shape.head_dim, shape.rotary_dim);
    const auto cos_rows = as_rows(cos);
    const auto sin_rows = as_rows(sin);
    GQA_CHECK(sin_rows.tokens == cos_rows.tokens, std::invalid_argument,
              "sin: positions is " << sin_rows.tokens << ", expected " << cos_rows.tokens << " as in cos");
    check_given("cos", cos_rows);
    check_given("sin", sin_rows);
    resize(cos_rows.tokens);
    range_ = {0, rows_};
    for (Index p = 0; p < rows_; ++p) {
      copy_row(cos_rows, p, values_.data() + 2 * p * pairs());
      copy_row(sin_rows, p, values_.data() + (2 * p + 1) * pairs());
    }
  }

  /// Holds the positions of a range, using the memory it has. Throws std::invalid_argument for a negative
  /// position and for a table of given cos and sin, the table unchanged.
  void assign(Range positions) {
    const Rope& source = rope();
    Rope::check_positions(positions.begin, 0);
    resize(positions.size());
    range_ = {positions.begin, positions.begin + positions.size()};
    for (Index i = 0; i < rows_; ++i) fill(source, i, positions.begin + i);
  }

  /// Holds the given positions in the given order (one for each sequence of a ragged batch, say).
  void assign(std::span<const Index> positions) {
    const Rope& source = rope();
    Rope::check_positions(positions);
    resize(static_cast<Index>(positions.size()));
    range_ = {};
    for (Index i = 0; i < rows_; ++i) fill(source, i, positions[static_cast<std::size_t>(i)]);
  }

  /// What the table is computed from. Throws std::invalid_argument where cos and sin were given.
  const Rope& rope() const {
    GQA_CHECK(rope_, std::invalid_argument,
              "rope table: cos and sin were given, and no Rope that others could be computed from");
    return *rope_;
  }
  const RopeShape& shape() const { return shape_; }
  Index pairs() const { return shape_.rotary_dim / 2; }
  Index size() const { return rows_; }    ///< number of positions held
  Range range() const { return range_; }  ///< the range held; empty when assigned from a list
  std::size_t bytes() const { return values_.size() * sizeof(T); }

  /// x <- R x, token t being at position first_position + t. Throws std::invalid_argument for another
  /// head_dim and for positions outside range(), x unchanged.
  template <TensorLike X>
  void apply(X&& x, Index first_position) const {
    rotate<detail::rotary::Turn::forward>(x, first_position);
  }

  /// x <- R x, token t of batch b being at positions[t], or at positions[b * tokens + t] where there are
  /// batch * tokens of them: ONNX's position_ids. Throws std::invalid_argument as above, and for any other
  /// number of positions.
  template <TensorLike X>
  void apply(X&& x, std::span<const Index> positions) const {
    rotate<detail::rotary::Turn::forward>(x, positions);
  }

  /// x <- R x, token t of batch b being at the t-th position held, or at the (b * tokens + t)-th where
  /// batch * tokens are held. Throws std::invalid_argument for any other number of tokens.
  template <TensorLike X>
  void apply(X&& x) const {
    rotate<detail::rotary::Turn::forward>(x);
  }

  /// x <- R^T x, the gradient of apply(); its inverse where cos^2 + sin^2 = 1 (an attention factor of 1).
  template <TensorLike X>
  void apply_transpose(X&& x, Index first_position) const {
    rotate<detail::rotary::Turn::backward>(x, first_position);
  }
  template <TensorLike X>
  void apply_transpose(X&& x, std::span<const Index> positions) const {
    rotate<detail::rotary::Turn::backward>(x, positions);
  }
  template <TensorLike X>
  void apply_transpose(X&& x) const {
    rotate<detail::rotary::Turn::backward>(x);
  }

 private:
  void resize(Index rows) {
    const Index width = checked_mul(2, pairs(), "rope table");
    values_.resize(static_cast<std::size_t>(checked_mul(rows, width, "rope table")));
    rows_ = rows;
  }

  void fill(const Rope& source, Index row, Index position) {
    T* const cos = values_.data() + 2 * row * pairs();
    source.angles(position, source.attention_factor(), cos, cos + pairs());
  }

  /// The second number of pair i in a row that holds each twice.
  Index twin(Index i) const { return shape_.layout == RopeLayout::half ? i + pairs() : 2 * i + 1; }
  /// The first one, or the only one of a row of `width`.
  Index column(Index i, Index width) const {
    return width != pairs() && shape_.layout == RopeLayout::interleaved ? 2 * i : i;
  }

  template <class S>
  void check_given(const char* name, const RowsView<S>& given) const {
    static_assert(Scalar<std::remove_const_t<S>>, "gqa: cos and sin are float, double, half or bfloat16");
    const Index width = given.heads;
    GQA_CHECK(given.batch == 1 && (width == pairs() || width == shape_.rotary_dim), std::invalid_argument,
              name << ": sizes are " << given.tokens << " x " << width << ", expected positions x " << pairs()
                   << " (rotary_dim / 2) or x " << shape_.rotary_dim);
    for (Index p = 0; width != pairs() && p < given.tokens; ++p) {
      const S* const row = given.data + p * given.token_stride;
      for (Index i = 0; i < pairs(); ++i) {
        const auto first = static_cast<double>(row[column(i, width) * given.head_stride]);
        const auto second = static_cast<double>(row[twin(i) * given.head_stride]);
        GQA_CHECK(first == second || (first != first && second != second), std::invalid_argument,
                  name << ": row " << p << " holds " << first << " at " << column(i, width) << " and "
                       << second << " at " << twin(i) << ", expected the same: pair " << i
                       << " of this layout");
      }
    }
  }

  template <class S>
  void copy_row(const RowsView<S>& given, Index p, T* to) const {
    for (Index i = 0; i < pairs(); ++i)
      to[i] = static_cast<T>(given.data[p * given.token_stride + column(i, given.heads) * given.head_stride]);
  }

  detail::rotary::Row<T> row(Index i) const {
    const T* const cos = values_.data() + 2 * i * pairs();
    return {cos, cos + pairs()};
  }

  template <TensorLike X>
  auto checked_view(X& x) const {
    static_assert(std::is_same_v<Accumulator<TensorScalar<X>>, T>,
                  "gqa: a RopeTable<float> is for f32, f16 and bf16 tensors, a RopeTable<double> for f64");
    return detail::in_place_view(x, shape_.head_dim);
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
    detail::rotary::rotate<Direction>(view, shape_.layout, pairs(),
                                      [&](Index, Index t) { return row(first_position - range_.begin + t); });
  }

  template <detail::rotary::Turn Direction, TensorLike X>
  void rotate(X& x, std::span<const Index> positions) const {
    const auto view = checked_view(x);
    const Index batch_step = detail::rotary::batch_step_of(view, static_cast<Index>(positions.size()));
    for (std::size_t i = 0; i < positions.size(); ++i)
      GQA_CHECK(range_.contains(positions[i]), std::invalid_argument,
                "x: position " << i << " is " << positions[i] << ", expected one of the table's ["
                               << range_.begin << ", " << range_.end << ")");
    detail::rotary::rotate<Direction>(view, shape_.layout, pairs(), [&](Index b, Index t) {
      return row(positions[static_cast<std::size_t>(b * batch_step + t)] - range_.begin);
    });
  }

  template <detail::rotary::Turn Direction, TensorLike X>
  void rotate(X& x) const {
    const auto view = checked_view(x);
    const Index batch_step = detail::rotary::batch_step_of(view, rows_);
    detail::rotary::rotate<Direction>(view, shape_.layout, pairs(),
                                      [&](Index b, Index t) { return row(b * batch_step + t); });
  }

  RopeShape shape_;
  std::optional<Rope> rope_;  // none: cos and sin were given
  Range range_;
  Index rows_ = 0;
  std::vector<T> values_;
};

}  // namespace gqa
