// SPDX-License-Identifier: Apache-2.0
#include "gguf.hpp"

#include <cstring>
#include <limits>
#include <sstream>
#include <type_traits>
#include <utility>

#include "gqa/core/error.hpp"

namespace generate {
namespace {

using gqa::format_error;

enum ValueType : std::uint32_t {
  type_u8 = 0,
  type_i8 = 1,
  type_u16 = 2,
  type_i16 = 3,
  type_u32 = 4,
  type_i32 = 5,
  type_f32 = 6,
  type_bool = 7,
  type_string = 8,
  type_array = 9,
  type_u64 = 10,
  type_i64 = 11,
  type_f64 = 12,
};

// Arrays may hold arrays; a file that nests them without end must not exhaust the stack.
constexpr int max_array_depth = 4;

/// Reads the bytes in order and never past their end.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::size_t position() const { return at_; }
  std::size_t remaining() const { return bytes_.size() - at_; }

  std::span<const std::byte> take(std::uint64_t count, std::string_view what) {
    GQA_CHECK(count <= remaining(), format_error,
              "the file ends inside " << what << ": " << count << " bytes wanted at byte " << at_ << " of "
                                      << bytes_.size());
    const auto piece = bytes_.subspan(at_, count);
    at_ += count;
    return piece;
  }

  template <class T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string_view string(std::string_view what) {
    const auto piece = take(number<std::uint64_t>(what), what);
    return {reinterpret_cast<const char*>(piece.data()), piece.size()};
  }

  std::span<const std::byte> since(std::size_t begin) const { return bytes_.subspan(begin, at_ - begin); }

 private:
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

/// The least bytes a value of the type can take; 0 for an unknown type.
std::uint64_t least_bytes(std::uint32_t type) {
  switch (type) {
    case type_u8:
    case type_i8:
    case type_bool:
      return 1;
    case type_u16:
    case type_i16:
      return 2;
    case type_u32:
    case type_i32:
    case type_f32:
      return 4;
    case type_u64:
    case type_i64:
    case type_f64:
    case type_string:
      return 8;
    case type_array:
      return 12;
    default:
      return 0;
  }
}

GgufArray read_array(Cursor& in, std::string_view key, int depth) {
  GQA_CHECK(depth <= max_array_depth, format_error,
            "key " << key << " nests arrays deeper than " << max_array_depth << " levels");
  const auto type = in.number<std::uint32_t>(key);
  const auto count = in.number<std::uint64_t>(key);
  const std::uint64_t least = least_bytes(type);
  GQA_CHECK(least != 0, format_error, "key " << key << " is an array of unknown value type " << type);
  GQA_CHECK(count <= in.remaining() / least, format_error,
            "key " << key << " claims " << count << " elements; the file ends before that");
  const std::size_t begin = in.position();
  if (type == type_string) {
    for (std::uint64_t i = 0; i < count; ++i) in.string(key);
  } else if (type == type_array) {
    for (std::uint64_t i = 0; i < count; ++i) read_array(in, key, depth + 1);
  } else {
    in.take(count * least, key);
  }
  return {type, count, in.since(begin)};
}

/// Reads a value of a scalar type as `visit(value)` in its own C++ type; false when the type is no number.
template <class Visitor>
bool visit_number(Cursor& in, std::uint32_t type, std::string_view key, Visitor visit) {
  switch (type) {
    case type_u8:
      visit(in.number<std::uint8_t>(key));
      return true;
    case type_i8:
      visit(in.number<std::int8_t>(key));
      return true;
    case type_u16:
      visit(in.number<std::uint16_t>(key));
      return true;
    case type_i16:
      visit(in.number<std::int16_t>(key));
      return true;
    case type_u32:
      visit(in.number<std::uint32_t>(key));
      return true;
    case type_i32:
      visit(in.number<std::int32_t>(key));
      return true;
    case type_f32:
      visit(in.number<float>(key));
      return true;
    case type_u64:
      visit(in.number<std::uint64_t>(key));
      return true;
    case type_i64:
      visit(in.number<std::int64_t>(key));
      return true;
    case type_f64:
      visit(in.number<double>(key));
      return true;
    default:
      return false;
  }
}

GgufValue read_value(Cursor& in, std::string_view key) {
  const auto type = in.number<std::uint32_t>(key);
  if (type == type_string) return in.string(key);
  if (type == type_array) return read_array(in, key, 1);
  if (type == type_bool) return in.number<std::uint8_t>(key) != 0;
  GgufValue value;
  const bool known = visit_number(in, type, key, [&]<class T>(T number) {
    if constexpr (std::is_floating_point_v<T>) {
      value = static_cast<double>(number);
    } else if constexpr (std::is_signed_v<T>) {
      value = static_cast<std::int64_t>(number);
    } else {
      value = static_cast<std::uint64_t>(number);
    }
  });
  GQA_CHECK(known, format_error, "key " << key << " is of unknown value type " << type);
  return value;
}

/// A tensor's entry in the header, and where its data begins relative to the data section.
std::pair<GgufTensor, std::uint64_t> read_tensor_info(Cursor& in, Gguf::Types types) {
  GgufTensor tensor;
  tensor.name = in.string("a tensor's name");
  const auto num_dims = in.number<std::uint32_t>(tensor.name);
  GQA_CHECK(num_dims >= 1 && num_dims <= tensor.sizes.size(), format_error,
            "tensor " << tensor.name << " has " << num_dims << " dimensions, expected 1 to 4");
  tensor.num_dims = num_dims;
  for (std::uint32_t i = 0; i < num_dims; ++i) {
    const auto size = in.number<std::uint64_t>(tensor.name);
    GQA_CHECK(size >= 1 && size <= std::uint64_t{std::numeric_limits<std::int32_t>::max()}, format_error,
              "tensor " << tensor.name << " has size " << size << " in dimension " << i);
    tensor.sizes[i] = static_cast<Index>(size);
  }
  const auto type = in.number<std::uint32_t>(tensor.name);
  const bool known =
      types == Gguf::Types::any ? stored_format(type).has_value() : block_format(type).has_value();
  GQA_CHECK(known, format_error,
            "tensor " << tensor.name << " is of type " << type_name(type) << ", which is not supported ("
                      << supported_types() << " are)");
  tensor.type = static_cast<TensorType>(type);
  return {tensor, in.number<std::uint64_t>(tensor.name)};
}

/// The bytes of a tensor whose sizes come from a file.
std::uint64_t data_bytes(const GgufTensor& tensor) {
  const BlockFormat format = *stored_format(static_cast<std::uint32_t>(tensor.type));
  GQA_CHECK(tensor.columns() % format.values == 0, format_error,
            "tensor " << tensor.name << ": rows of " << tensor.columns() << " values are no whole number of "
                      << format.name << " blocks of " << format.values);
  std::uint64_t bytes = static_cast<std::uint64_t>(tensor.columns() / format.values * format.bytes);
  for (std::size_t i = 1; i < tensor.sizes.size(); ++i) {
    GQA_CHECK(!__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(tensor.sizes[i]), &bytes),
              format_error, "tensor " << tensor.name << ": the sizes " << tensor.shape() << " overflow");
  }
  return bytes;
}

template <class T>
const T& get(const GgufValue& value, std::string_view key, const char* kind) {
  const T* found = std::get_if<T>(&value);
  GQA_CHECK(found != nullptr, format_error, "key " << key << " is not " << kind);
  return *found;
}

Index as_index(const GgufValue& value, std::string_view key) {
  if (const auto* number = std::get_if<std::uint64_t>(&value)) {
    GQA_CHECK(std::in_range<Index>(*number), format_error,
              "key " << key << " is " << *number << ": too large");
    return static_cast<Index>(*number);
  }
  return static_cast<Index>(get<std::int64_t>(value, key, "an integer"));
}

double as_real(const GgufValue& value, std::string_view key) {
  if (const auto* number = std::get_if<double>(&value)) return *number;
  return static_cast<double>(as_index(value, key));
}

}  // namespace

std::string GgufTensor::shape() const {
  std::size_t dims = sizes.size();
  while (dims > 1 && sizes[dims - 1] == 1) --dims;
  std::ostringstream out;
  for (std::size_t i = 0; i < dims; ++i) out << (i == 0 ? "[" : ", ") << sizes[i];
  return out.str() + "]";
}

Gguf::Gguf(std::span<const std::byte> file, Check check_metadata, Types types) {
  Cursor in(file);
  const auto magic = in.take(4, "the magic number");
  GQA_CHECK(std::memcmp(magic.data(), "GGUF", 4) == 0, format_error,
            "this is no GGUF file: the magic number is wrong");
  const auto version = in.number<std::uint32_t>("the version");
  GQA_CHECK(version == 2 || version == 3, format_error,
            "GGUF version " << version << " is not supported (2 and 3 are)");
  const auto num_tensors = in.number<std::uint64_t>("the tensor count");
  const auto num_keys = in.number<std::uint64_t>("the metadata count");
  // A key takes at least a length, a type and a byte of value; a tensor a length, a count, a size, a type and
  // an offset. Counts beyond that are refused before anything is allocated for them.
  GQA_CHECK(num_keys <= in.remaining() / 13, format_error,
            "the file claims " << num_keys << " metadata keys and ends before that");
  GQA_CHECK(num_tensors <= in.remaining() / 32, format_error,
            "the file claims " << num_tensors << " tensors and ends before that");

  for (std::uint64_t i = 0; i < num_keys; ++i) {
    const auto key = in.string("a metadata key");
    GQA_CHECK(!key.empty(), format_error, "metadata key number " << i << " is empty");
    const std::size_t begin = in.position();
    GQA_CHECK(metadata_.emplace(key, read_value(in, key)).second, format_error,
              "key " << key << " appears twice");
    keys_.push_back(key);
    entries_.push_back(in.since(begin));
  }
  if (check_metadata != nullptr) check_metadata(*this);

  std::vector<std::uint64_t> offsets;
  for (std::uint64_t i = 0; i < num_tensors; ++i) {
    auto [tensor, offset] = read_tensor_info(in, types);
    offsets.push_back(offset);
    tensors_.push_back(tensor);
    GQA_CHECK(tensor_index_.emplace(tensors_.back().name, i).second, format_error,
              "tensor " << tensors_.back().name << " appears twice");
  }

  const Index alignment = integer("general.alignment", 32);
  GQA_CHECK(alignment >= 8 && alignment % 8 == 0 && alignment <= 1 << 20, format_error,
            "general.alignment is " << alignment << ", expected a multiple of 8");
  if (num_tensors == 0) return;
  const auto step = static_cast<std::uint64_t>(alignment);
  in.take((step - in.position() % step) % step, "the padding before the tensor data");
  const auto data = file.subspan(in.position());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    GgufTensor& tensor = tensors_[i];
    const std::uint64_t bytes = data_bytes(tensor);
    GQA_CHECK(
        offsets[i] % step == 0, format_error,
        "tensor " << tensor.name << ": the offset " << offsets[i] << " is no multiple of " << alignment);
    GQA_CHECK(offsets[i] <= data.size() && bytes <= data.size() - offsets[i], format_error,
              "tensor " << tensor.name << ": " << bytes << " bytes at offset " << offsets[i]
                        << " reach past the end of the file (" << data.size() << " bytes of tensor data)");
    tensor.data = data.subspan(offsets[i], bytes);
  }
}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

const GgufValue& Gguf::require(std::string_view key) const {
  const GgufValue* value = find(key);
  GQA_CHECK(value != nullptr, format_error, "key " << key << " is missing");
  return *value;
}

Index Gguf::integer(std::string_view key) const { return as_index(require(key), key); }
Index Gguf::integer(std::string_view key, Index fallback) const {
  const GgufValue* value = find(key);
  return value == nullptr ? fallback : as_index(*value, key);
}

double Gguf::real(std::string_view key) const { return as_real(require(key), key); }
double Gguf::real(std::string_view key, double fallback) const {
  const GgufValue* value = find(key);
  return value == nullptr ? fallback : as_real(*value, key);
}

bool Gguf::boolean(std::string_view key, bool fallback) const {
  const GgufValue* value = find(key);
  return value == nullptr ? fallback : get<bool>(*value, key, "a bool");
}

std::string_view Gguf::text(std::string_view key) const {
  return get<std::string_view>(require(key), key, "a string");
}
std::string_view Gguf::text(std::string_view key, std::string_view fallback) const {
  const GgufValue* value = find(key);
  return value == nullptr ? fallback : get<std::string_view>(*value, key, "a string");
}

std::vector<std::string_view> Gguf::texts(std::string_view key) const {
  const auto& array = get<GgufArray>(require(key), key, "an array");
  GQA_CHECK(array.type == type_string, format_error, "key " << key << " is not an array of strings");
  std::vector<std::string_view> strings(array.count);
  Cursor in(array.bytes);
  for (auto& string : strings) string = in.string(key);
  return strings;
}

namespace {

template <class T>
std::vector<T> numbers(const GgufArray& array, std::string_view key) {
  std::vector<T> values(array.count);
  Cursor in(array.bytes);
  for (T& value : values) {
    if (array.type == type_bool && std::is_integral_v<T>) {
      value = static_cast<T>(in.number<std::uint8_t>(key) != 0);
      continue;
    }
    const bool known = visit_number(in, array.type, key, [&](auto number) {
      if constexpr (std::is_integral_v<T>) {
        if constexpr (std::is_integral_v<decltype(number)>) {
          GQA_CHECK(std::in_range<T>(number), format_error,
                    "key " << key << " holds " << number << ": out of range");
        } else {
          throw format_error("key " + std::string(key) + " is not an array of integers");
        }
      }
      value = static_cast<T>(number);
    });
    GQA_CHECK(known, format_error, "key " << key << " is not an array of numbers");
  }
  return values;
}

}  // namespace

std::vector<std::int32_t> Gguf::integers(std::string_view key) const {
  return numbers<std::int32_t>(get<GgufArray>(require(key), key, "an array"), key);
}

std::vector<float> Gguf::reals(std::string_view key) const {
  return numbers<float>(get<GgufArray>(require(key), key, "an array"), key);
}

const GgufTensor* Gguf::find_tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace generate
