// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "mapped_file.hpp"
#include "tensor_type.hpp"

namespace generate {

/// An array of the metadata as it lies in the file: element type, count, and the elements' bytes.
struct GgufArray {
  std::uint32_t type = 0;
  std::uint64_t count = 0;
  std::span<const std::byte> bytes;
};

/// A value of the metadata: unsigned and signed integers, floats of either size, bool, string, array.
using GgufValue = std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, GgufArray>;

/// A tensor in the file. `sizes[0]` is the contiguous dimension: a linear layer's weight is `columns` inputs
/// x `rows` outputs, and each of its rows lies in one piece.
struct GgufTensor {
  std::string_view name;
  TensorType type{};
  std::array<Index, 4> sizes{1, 1, 1, 1};
  std::uint32_t num_dims = 1;  ///< sizes that the file gives
  std::span<const std::byte> data;

  Index columns() const { return sizes[0]; }
  Index rows() const { return sizes[1] * sizes[2] * sizes[3]; }
  std::string shape() const;  ///< "[576, 49152]": for messages
};

/// The parsed header of a GGUF file, version 2 or 3 (layout: ggml's docs/gguf.md). Everything refers to the
/// file's bytes, which must outlive it. Each length, count and offset is checked against the bytes there are
/// before it is used. Throws gqa::format_error naming what is wrong. `check_metadata` is called when the keys
/// are read and the tensors are not yet, and may throw.
class Gguf {
 public:
  using Check = void (*)(const Gguf&);
  enum class Types {
    readable,  ///< a tensor of another type is an error
    any        ///< all whose size is known
  };
  explicit Gguf(std::span<const std::byte> file, Check check_metadata = nullptr,
                Types types = Types::readable);

  bool has(std::string_view key) const { return metadata_.contains(key); }
  bool is_array(std::string_view key) const { return std::holds_alternative<GgufArray>(require(key)); }
  bool is_boolean(std::string_view key) const { return std::holds_alternative<bool>(require(key)); }
  /// In the order of the file.
  const std::vector<std::string_view>& keys() const { return keys_; }
  /// The type and value of the i-th key as they lie in the file: for who copies them.
  std::span<const std::byte> entry(std::size_t i) const { return entries_.at(i); }

  // The value of a key, in the type asked for: format_error when it is of another kind or, in the forms
  // without a fallback, missing.
  Index integer(std::string_view key) const;
  Index integer(std::string_view key, Index fallback) const;
  double real(std::string_view key) const;
  double real(std::string_view key, double fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string_view text(std::string_view key) const;
  std::string_view text(std::string_view key, std::string_view fallback) const;
  std::vector<std::string_view> texts(std::string_view key) const;
  std::vector<std::int32_t> integers(std::string_view key) const;  ///< of booleans too
  std::vector<float> reals(std::string_view key) const;

  /// In the order of the file.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// The tensor of that name, or null.
  const GgufTensor* find_tensor(std::string_view name) const;

 private:
  const GgufValue* find(std::string_view key) const;
  const GgufValue& require(std::string_view key) const;

  std::vector<std::string_view> keys_;
  std::vector<std::span<const std::byte>> entries_;
  std::unordered_map<std::string_view, GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> tensor_index_;
};

}  // namespace generate
