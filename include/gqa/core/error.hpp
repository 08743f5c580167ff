// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

#include "gqa/core/toolchain.hpp"

namespace gqa {

/// A file or byte stream that does not follow its format (wrong magic, length
/// out of bounds, unknown type).
class format_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// The text of an exception, streamed as into std::ostream. Its functions are shared by all checks: with a
/// string stream at each, they were two fifths of the code that a call of attention compiles to.
class Message {
 public:
  Message& operator<<(std::string_view text) { return add(text.data(), text.size()); }
  Message& operator<<(char c) { return add(&c, 1); }
  Message& operator<<(int x) { return add(static_cast<long long>(x)); }
  Message& operator<<(long x) { return add(static_cast<long long>(x)); }
  Message& operator<<(long long x) { return add(x); }
  Message& operator<<(unsigned x) { return add(static_cast<unsigned long long>(x)); }
  Message& operator<<(unsigned long x) { return add(static_cast<unsigned long long>(x)); }
  Message& operator<<(unsigned long long x) { return add(x); }
  Message& operator<<(double x) { return add(x); }

  const std::string& text() const { return text_; }

 private:
  [[gnu::noinline, gnu::cold]] Message& add(const char* first, std::size_t size) {
    text_.append(first, size);
    return *this;
  }
  [[gnu::noinline, gnu::cold]] Message& add(long long x) {
    text_ += std::to_string(x);
    return *this;
  }
  [[gnu::noinline, gnu::cold]] Message& add(unsigned long long x) {
    text_ += std::to_string(x);
    return *this;
  }
  [[gnu::noinline, gnu::cold]] Message& add(double x) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", x);
    text_ += digits;
    return *this;
  }

  std::string text_;
};

template <class Exception>
[[noreturn, gnu::noinline, gnu::cold]] void fail(const Message& message) {
  throw Exception(message.text());
}

}  // namespace detail
}  // namespace gqa

/// Throws `exception_type` with the streamed message unless `condition` holds.
/// The message is built only on failure, and out of line, so a check in a hot
/// function costs one branch.
#define GQA_CHECK(condition, exception_type, message_stream)                           \
  do {                                                                                 \
    if (!(condition)) [[unlikely]] {                                                   \
      ::gqa::detail::fail<exception_type>(::gqa::detail::Message() << message_stream); \
    }                                                                                  \
  } while (false)
