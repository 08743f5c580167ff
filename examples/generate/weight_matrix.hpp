// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "gqa/core/memory.hpp"
#include "gqa/layer/matrix_view.hpp"
#include "tensor_type.hpp"

namespace generate {

/// What the numbers of a linear layer are kept as.
enum class WeightType { f32, f16, bf16 };

const char* type_name(WeightType type);

/// The type of that name; nothing for "auto". Throws std::invalid_argument for another.
std::optional<WeightType> weight_type(std::string_view name);

/// What weights of these types in a file are kept as where nobody says: as they are, or in 16 bits where the
/// file has fewer. A value of a quantised block is a small integer times an f16 (plus an f16), which f16
/// keeps to 2^-11 of it and bf16 to 2^-8: so f16.
WeightType kept_as(std::span<const TensorType> types);

/// A matrix of a model's weights in one of those types, a row for each output.
class WeightMatrix {
 public:
  WeightMatrix() = default;
  /// Not yet filled. Throws std::length_error where the sizes overflow, std::bad_alloc.
  WeightMatrix(WeightType type, Index rows, Index columns);

  WeightType type() const { return type_; }
  Index rows() const { return rows_; }
  Index columns() const { return columns_; }
  bool empty() const { return rows_ == 0; }
  std::size_t bytes() const;

  /// Fills whole rows from `first_row` on, each value rounded to the nearest; tasks may fill rows of their
  /// own at the same time. Returns the size of the largest one where it is finite and too large for the type.
  std::optional<float> fill(Index first_row, std::span<const float> values);

  gqa::MatrixView view() const;
  /// out <- row, exactly.
  void read_row(Index row, std::span<float> out) const;

 private:
  WeightType type_ = WeightType::f32;
  Index rows_ = 0, columns_ = 0;
  gqa::AlignedArray<std::byte> memory_;
};

}  // namespace generate
