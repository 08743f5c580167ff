// SPDX-License-Identifier: Apache-2.0
#include "gguf_output.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>

#include "gqa/core/error.hpp"

namespace convert {
namespace {

using gqa::format_error;

/// What a header is made of, one after the other.
class Header {
 public:
  template <class T>
  void number(T value) {
    append(std::as_bytes(std::span(&value, 1)));
  }
  void string(std::string_view text) {
    number(std::uint64_t{text.size()});
    append(std::as_bytes(std::span(text)));
  }
  void append(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void pad(Index alignment) {
    bytes_.resize(static_cast<std::size_t>(gqa::round_up(std::ssize(bytes_), alignment)));
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

constexpr std::uint32_t type_u32 = 4;

void put_integer(Header& out, const OutputFile::Integer& integer) {
  out.string(integer.key);
  out.number(type_u32);
  out.number(integer.value);
}

/// Writes the values of `tensor`, some rows at a time: decoded, looked at, and encoded where the type is
/// another one.
void write_values(const OutputTensor& tensor, gqa::detail::File& file,
                  const std::function<void(Index)>& progress) {
  const GgufTensor& source = *tensor.source;
  const auto columns = static_cast<std::size_t>(source.columns());
  const auto row_bytes = source.data.size() / static_cast<std::size_t>(source.rows());
  const auto format = *generate::block_format(static_cast<std::uint32_t>(tensor.type));
  const std::size_t new_row_bytes =
      columns / static_cast<std::size_t>(format.values) * static_cast<std::size_t>(format.bytes);
  // About a megabyte of values.
  const Index step = std::max<Index>(1, (Index{1} << 18) / source.columns());
  std::vector<float> values;
  std::vector<std::byte> encoded;
  for (Index row = 0; row < source.rows(); row += step) {
    const auto rows = static_cast<std::size_t>(std::min(step, source.rows() - row));
    const auto bytes = source.data.subspan(static_cast<std::size_t>(row) * row_bytes, rows * row_bytes);
    values.resize(rows * columns);
    generate::dequantize(source.type, bytes, values);
    check_finite(tensor.name, values, row * source.columns());
    if (tensor.type == source.type) {
      file.write(bytes);
    } else {
      encoded.resize(rows * new_row_bytes);
      try {
        quantize(tensor.type, values, encoded);
      } catch (const std::invalid_argument& error) {
        throw format_error("tensor " + tensor.name + ", rows from " + std::to_string(row) +
                           " on: " + error.what());
      }
      file.write(encoded);
    }
    if (progress) progress(static_cast<Index>(rows * new_row_bytes));
  }
}

}  // namespace

void check_finite(std::string_view tensor, std::span<const float> values, Index first) {
  const auto other = std::ranges::find_if_not(values, [](float x) { return std::isfinite(x); });
  GQA_CHECK(other == values.end(), format_error,
            "tensor " << tensor << ": value " << other - values.begin() + first << " is " << *other
                      << ", expected a finite number");
}

Index OutputTensor::bytes() const {
  const auto format = *generate::block_format(static_cast<std::uint32_t>(type));
  GQA_CHECK(sizes.front() % format.values == 0, format_error,
            "tensor " << name << ": rows of " << sizes.front() << " values are no whole number of "
                      << format.name << " blocks of " << format.values);
  Index bytes = gqa::checked_mul(sizes.front() / format.values, format.bytes, name.c_str());
  for (std::size_t i = 1; i < sizes.size(); ++i) bytes = gqa::checked_mul(bytes, sizes[i], name.c_str());
  return bytes;
}

std::vector<std::byte> OutputFile::header() const {
  const auto is_new = [&](const Integer& integer) { return !source.has(integer.key); };
  const auto added = static_cast<std::size_t>(std::ranges::count_if(integers, is_new));
  Header out;
  out.append(std::as_bytes(std::span(std::string_view("GGUF"))));
  out.number(std::uint32_t{3});
  out.number(std::uint64_t{tensors.size()});
  out.number(std::uint64_t{source.keys().size() + added});
  for (std::size_t i = 0; i < source.keys().size(); ++i) {
    const std::string_view key = source.keys()[i];
    const auto changed = std::ranges::find(integers, key, &Integer::key);
    if (changed != integers.end()) {
      put_integer(out, *changed);
    } else {
      out.string(key);
      out.append(source.entry(i));
    }
  }
  for (const Integer& integer : integers)
    if (is_new(integer)) put_integer(out, integer);
  Index offset = 0;
  for (const OutputTensor& tensor : tensors) {
    out.string(tensor.name);
    out.number(static_cast<std::uint32_t>(tensor.sizes.size()));
    for (const Index size : tensor.sizes) out.number(static_cast<std::uint64_t>(size));
    out.number(static_cast<std::uint32_t>(tensor.type));
    out.number(static_cast<std::uint64_t>(offset));
    offset = gqa::round_up(offset + tensor.bytes(), alignment());
  }
  out.pad(alignment());
  return out.take();
}

Index OutputFile::bytes() const {
  Index sum = std::ssize(header());
  for (const OutputTensor& tensor : tensors)
    sum = gqa::checked_add(sum, gqa::round_up(tensor.bytes(), alignment()), "a GGUF file");
  return sum;
}

void OutputFile::write(gqa::detail::File& file, const std::function<void(Index)>& progress) const {
  file.write(header());
  const std::vector<std::byte> zeros(static_cast<std::size_t>(alignment()));
  for (const OutputTensor& tensor : tensors) {
    const Index bytes = tensor.bytes();
    if (tensor.source != nullptr) {
      write_values(tensor, file, progress);
    } else {
      GQA_CHECK(std::ssize(tensor.data) == bytes, std::logic_error,
                "tensor " << tensor.name << ": " << tensor.data.size() << " bytes, expected " << bytes);
      file.write(tensor.data);
      if (progress) progress(bytes);
    }
    // The last one too, as other writers do.
    const auto padding = static_cast<std::size_t>(gqa::round_up(bytes, alignment()) - bytes);
    file.write(std::span(zeros).first(padding));
  }
}

}  // namespace convert
