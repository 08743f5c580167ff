// SPDX-License-Identifier: Apache-2.0
#include "weight_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "gqa/core/error.hpp"
#include "gqa/core/scalar.hpp"

namespace generate {
namespace {

/// Calls f.operator()<T>() with the C++ type.
template <class F>
decltype(auto) with_type(WeightType type, F&& f) {
  switch (type) {
    case WeightType::f16:
      return f.template operator()<gqa::half>();
    case WeightType::bf16:
      return f.template operator()<gqa::bfloat16>();
    case WeightType::f32:
      break;
  }
  return f.template operator()<float>();
}

}  // namespace

const char* type_name(WeightType type) {
  return with_type(type, []<class T>() { return gqa::scalar_name<T>(); });
}

std::optional<WeightType> weight_type(std::string_view name) {
  if (name == "auto") return std::nullopt;
  for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::bf16})
    if (name == type_name(type)) return type;
  throw std::invalid_argument("weights are auto, f32, f16 or bf16, not " + std::string(name));
}

WeightType kept_as(std::span<const TensorType> types) {
  if (std::ranges::count(types, TensorType::f32) != 0) return WeightType::f32;
  return std::ranges::count(types, TensorType::bf16) == std::ssize(types) ? WeightType::bf16
                                                                          : WeightType::f16;
}

WeightMatrix::WeightMatrix(WeightType type, Index rows, Index columns)
    : type_(type), rows_(rows), columns_(columns) {
  const Index element = with_type(type, []<class T>() { return Index{sizeof(T)}; });
  memory_ = gqa::allocate_aligned<std::byte>(static_cast<std::size_t>(
      gqa::checked_mul(gqa::checked_mul(rows, columns, "weights"), element, "weights")));
}

std::size_t WeightMatrix::bytes() const {
  return static_cast<std::size_t>(rows_ * columns_) * (type_ == WeightType::f32 ? 4 : 2);
}

std::optional<float> WeightMatrix::fill(Index first_row, std::span<const float> values) {
  float largest = 0;
  for (const float x : values) {
    const float size = std::abs(x);
    if (size > largest && size <= std::numeric_limits<float>::max()) largest = size;
  }
  return with_type(type_, [&]<class T>() -> std::optional<float> {
    if (std::isinf(static_cast<float>(static_cast<T>(largest)))) return largest;
    const gqa::MatrixOut out(reinterpret_cast<T*>(memory_.get()), rows_, columns_, columns_);
    out.round_float(values.data(), std::ssize(values), out.row(first_row));
    return std::nullopt;
  });
}

gqa::MatrixView WeightMatrix::view() const {
  return with_type(type_, [&]<class T>() {
    return gqa::MatrixView(reinterpret_cast<const T*>(memory_.get()), rows_, columns_);
  });
}

void WeightMatrix::read_row(Index row, std::span<float> out) const {
  with_type(type_, [&]<class T>() {
    const T* const from = reinterpret_cast<const T*>(memory_.get()) + row * columns_;
    std::transform(from, from + columns_, out.begin(), [](T x) { return static_cast<float>(x); });
  });
}

}  // namespace generate
