// SPDX-License-Identifier: Apache-2.0
#include "shape.hpp"

#include <algorithm>
#include <charconv>

namespace bench {
namespace {

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  for (std::size_t end; (end = text.find('/')) != text.npos; text.remove_prefix(end + 1))
    parts.push_back(text.substr(0, end));
  parts.push_back(text);
  return parts;
}

std::string sizes(const Shape& shape) {
  std::string text = name(shape.dtype);
  const auto add = [&](const char* key, Index value) {
    text += "/" + std::string(key) + ":" + std::to_string(value);
  };
  add("H", shape.H);
  add("G", shape.G);
  add("D", shape.D);
  if (shape.batch != 0) add("B", shape.batch);
  if (shape.window != 0) add("W", shape.window);
  if (shape.S != 0) add("S", shape.S);
  if (shape.ctx != 0) add("ctx", shape.ctx);
  return text;
}

}  // namespace

const char* name(Dtype dtype) { return dtype == Dtype::f32 ? "f32" : dtype == Dtype::f16 ? "f16" : "bf16"; }

double size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

std::string Shape::name() const { return kind + "/" + sizes(*this) + "/threads:" + std::to_string(threads); }

std::string Shape::memory_key() const { return sizes(*this); }

std::optional<Shape> Shape::parse(std::string_view text) {
  const auto parts = split(text);
  if (parts.size() < 3) return std::nullopt;
  Shape shape;
  shape.kind = parts[0];
  if (parts[1] == "f32")
    shape.dtype = Dtype::f32;
  else if (parts[1] == "f16")
    shape.dtype = Dtype::f16;
  else if (parts[1] == "bf16")
    shape.dtype = Dtype::bf16;
  else
    return std::nullopt;
  for (std::size_t i = 2; i < parts.size(); ++i) {
    const auto colon = parts[i].find(':');
    if (colon == parts[i].npos) return std::nullopt;
    const auto key = parts[i].substr(0, colon), value = parts[i].substr(colon + 1);
    Index number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size() || number < 1) return std::nullopt;
    if (key == "threads")
      shape.threads = static_cast<int>(number);
    else if (key == "H")
      shape.H = number;
    else if (key == "G")
      shape.G = number;
    else if (key == "D")
      shape.D = number;
    else if (key == "B")
      shape.batch = number;
    else if (key == "W")
      shape.window = number;
    else if (key == "S")
      shape.S = number;
    else if (key == "ctx")
      shape.ctx = number;
    else
      return std::nullopt;
  }
  if (shape.H % shape.G != 0 || shape.tokens() < shape.queries()) return std::nullopt;
  return shape;
}

gqa::Range Shape::visible(Index i) const {
  const Index end = tokens() - queries() + i + 1;
  return {window == 0 ? 0 : std::max<Index>(0, end - window), end};
}

double Shape::kv_bytes() const {
  return 2 * static_cast<double>(sequences() * G * tokens() * D) * size_of(dtype);
}

double Shape::qo_bytes() const {
  return 2 * static_cast<double>(sequences() * H * queries() * D) * size_of(dtype);
}

double Shape::bytes() const {
  const auto keys = static_cast<double>(tokens() - visible(0).begin);
  return static_cast<double>(sequences() * 2 * G * D) * keys * size_of(dtype) + qo_bytes();
}

double Shape::density() const {
  Shape causal = *this;
  causal.window = 0;
  return flops() / causal.flops();
}

double Shape::flops() const {
  double pairs = 0;
  for (Index i = 0; i < queries(); ++i) pairs += static_cast<double>(visible(i).size());
  return 4 * static_cast<double>(sequences() * H * D) * pairs;
}

}  // namespace bench
