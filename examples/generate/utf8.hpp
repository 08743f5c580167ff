// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace generate {

/// The first bytes of a text: one code point, a broken sequence, or the beginning of one that goes on after
/// the text's end. A broken sequence is the longest beginning of a code point, at least one byte (Unicode
/// 15.0, section 3.9, "maximal subpart").
struct Utf8Unit {
  enum class State { valid, broken, incomplete };
  std::size_t length;
  State state;
};

inline Utf8Unit next_utf8(std::string_view text) {
  using enum Utf8Unit::State;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, valid};
  if (lead < 0xC2 || lead > 0xF4) return {1, broken};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte is narrower after E0 and F0 (no overlong forms), ED (no surrogates) and F4 (nothing past
  // U+10FFFF).
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {i, incomplete};
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xBF)) return {i, broken};
  }
  return {length, valid};
}

/// The position of the first byte that is not UTF-8, or npos.
inline std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Unit unit = next_utf8(text.substr(at));
    if (unit.state != Utf8Unit::State::valid) return at;
    at += unit.length;
  }
  return std::string_view::npos;
}

/// Turns bytes that arrive in arbitrary pieces into valid UTF-8: a code point is held back until it is
/// complete, a broken sequence becomes U+FFFD.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes) {
    pending_ += bytes;
    return take(false);
  }
  /// What was held back, at the end of the text.
  std::string finish() { return take(true); }

 private:
  std::string take(bool at_end) {
    std::string text;
    std::size_t at = 0;
    while (at < pending_.size()) {
      const std::string_view rest = std::string_view(pending_).substr(at);
      const Utf8Unit unit = next_utf8(rest);
      if (unit.state == Utf8Unit::State::incomplete && !at_end) break;
      text += unit.state == Utf8Unit::State::valid ? rest.substr(0, unit.length) : "\uFFFD";
      at += unit.length;
    }
    pending_.erase(0, at);
    return text;
  }

  std::string pending_;
};

/// A text of any bytes, its broken sequences as U+FFFD.
inline std::string valid_utf8(std::string_view text) {
  Utf8Stream stream;
  return stream.push(text) + stream.finish();
}

}  // namespace generate
