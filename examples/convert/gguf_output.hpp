// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf.hpp"
#include "gqa/kv/file_io.hpp"
#include "quantize.hpp"

namespace convert {

using generate::Gguf;
using generate::GgufTensor;

/// Throws gqa::format_error naming the first value of a tensor that is no number; `values` begin with its
/// `first`-th.
void check_finite(std::string_view tensor, std::span<const float> values, Index first = 0);

/// A tensor of a file that is to be written. `sizes[0]` is the contiguous dimension.
struct OutputTensor {
  std::string name;
  std::vector<Index> sizes;
  TensorType type{};
  const GgufTensor* source = nullptr;  ///< the values are this one's, or
  std::vector<std::byte> data = {};    ///< these are the blocks

  /// Throws gqa::format_error where a row is no whole number of blocks or the product overflows.
  Index bytes() const;
};

/// A GGUF file (version 3) made of another one: its metadata, byte for byte and in its order, but for some
/// integers, and tensors.
struct OutputFile {
  struct Integer {
    std::string key;
    std::uint32_t value;
  };

  const Gguf& source;
  std::vector<Integer> integers;  ///< in place of the source's, or after its last key
  std::vector<OutputTensor> tensors;

  /// Bytes of the whole file.
  Index bytes() const;

  /// Writes it, from where the file stands. Tensors of the source's type keep their bytes; others are rounded
  /// once more. `progress` is called with the bytes written since the last call, and may throw. Throws
  /// std::system_error, and gqa::format_error naming the tensor that holds NaN, infinity or a number that is
  /// too large for its type.
  void write(gqa::detail::File& file, const std::function<void(Index)>& progress = {}) const;

 private:
  std::vector<std::byte> header() const;
  Index alignment() const { return source.integer("general.alignment", 32); }
};

}  // namespace convert
