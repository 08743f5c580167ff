// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tensor_type.hpp"

namespace generate::test {

/// Numbers and strings as a GGUF file has them, one after the other.
class Bytes {
 public:
  template <class T>
  Bytes& number(T value) {
    const auto* first = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), first, first + sizeof(T));
    return *this;
  }
  Bytes& raw(std::string_view text) {
    const auto* first = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), first, first + text.size());
    return *this;
  }
  Bytes& string(std::string_view text) { return number<std::uint64_t>(text.size()).raw(text); }
  Bytes& append(const std::vector<std::byte>& more) {
    bytes_.insert(bytes_.end(), more.begin(), more.end());
    return *this;
  }
  Bytes& pad(std::size_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_.push_back(std::byte{0});
    return *this;
  }

  const std::vector<std::byte>& get() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Builds a GGUF file, or one with something wrong: all that the header says can be changed before it is
/// written.
class GgufWriter {
 public:
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t extra_tensors = 0, extra_keys = 0;  ///< claimed on top of those there are
  std::uint64_t alignment = 32;

  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> sizes;
    std::uint32_t type;
    std::vector<std::byte> data;
    std::uint64_t offset = 0;
  };
  std::vector<Tensor> tensors;

  void key(std::string_view name, std::uint32_t type, const Bytes& value) {
    remove_key(name);
    keys_.push_back({std::string(name), Bytes().string(name).number(type).append(value.get()).get()});
  }
  void integer(std::string_view name, std::uint32_t value) { key(name, 4, Bytes().number(value)); }
  void real(std::string_view name, float value) { key(name, 6, Bytes().number(value)); }
  void boolean(std::string_view name, bool value) { key(name, 7, Bytes().number(std::uint8_t{value})); }
  void text(std::string_view name, std::string_view value) { key(name, 8, Bytes().string(value)); }
  void texts(std::string_view name, const std::vector<std::string>& values) {
    Bytes bytes;
    bytes.number<std::uint32_t>(8).number<std::uint64_t>(values.size());
    for (const auto& value : values) bytes.string(value);
    key(name, 9, bytes);
  }
  template <class T>
  void numbers(std::string_view name, std::uint32_t type, const std::vector<T>& values) {
    Bytes bytes;
    bytes.number(type).number<std::uint64_t>(values.size());
    for (const T value : values) bytes.number(value);
    key(name, 9, bytes);
  }
  void remove_key(std::string_view name) {
    std::erase_if(keys_, [&](const auto& entry) { return entry.name == name; });
  }

  void tensor(std::string_view name, std::vector<std::uint64_t> sizes, TensorType type,
              std::vector<std::byte> data) {
    tensors.push_back(
        {std::string(name), std::move(sizes), static_cast<std::uint32_t>(type), std::move(data)});
    const Tensor* previous = tensors.size() > 1 ? &tensors[tensors.size() - 2] : nullptr;
    const std::uint64_t end = previous == nullptr ? 0 : previous->offset + previous->data.size();
    tensors.back().offset = (end + alignment - 1) / alignment * alignment;
  }
  Tensor& find(std::string_view name) {
    for (Tensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::out_of_range(std::string(name));
  }

  /// The file up to the tensor data.
  std::vector<std::byte> header() const {
    Bytes out;
    out.raw(magic).number(version).number(tensors.size() + extra_tensors).number(keys_.size() + extra_keys);
    for (const auto& entry : keys_) out.append(entry.bytes);
    for (const Tensor& tensor : tensors) {
      out.string(tensor.name).number(static_cast<std::uint32_t>(tensor.sizes.size()));
      for (const std::uint64_t size : tensor.sizes) out.number(size);
      out.number(tensor.type).number(tensor.offset);
    }
    if (!tensors.empty()) out.pad(alignment);
    return out.get();
  }

  std::vector<std::byte> file() const {
    auto bytes = header();
    const std::size_t begin = bytes.size();
    for (const Tensor& tensor : tensors) {
      bytes.resize(std::max(bytes.size(), begin + tensor.offset + tensor.data.size()));
      if (!tensor.data.empty())
        std::memcpy(bytes.data() + begin + tensor.offset, tensor.data.data(), tensor.data.size());
    }
    return bytes;
  }

 private:
  struct Entry {
    std::string name;
    std::vector<std::byte> bytes;
  };
  std::vector<Entry> keys_;
};

}  // namespace generate::test
