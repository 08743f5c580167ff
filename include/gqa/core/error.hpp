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

/// The text of an exception, streamed as into std::ostream: the last of its pieces, each of which knows the
/// one before it. Pieces live as long as the statement and own nothing, so a check leaves nothing to clean up
/// where one throws: with a string in each, checks were a quarter of the code a call of attention compiles
/// to.
class Message {
 public:
  Message() = default;

  Message operator<<(const char* text) const { return {*this, std::string_view(text)}; }
  Message operator<<(std::string_view text) const { return {*this, text}; }
  Message operator<<(const std::string& text) const { return {*this, std::string_view(text)}; }
  Message operator<<(char c) const { return {*this, c}; }
  Message operator<<(int x) const { return {*this, static_cast<long long>(x)}; }
  Message operator<<(long x) const { return {*this, static_cast<long long>(x)}; }
  Message operator<<(long long x) const { return {*this, x}; }
  Message operator<<(unsigned x) const { return {*this, static_cast<unsigned long long>(x)}; }
  Message operator<<(unsigned long x) const { return {*this, static_cast<unsigned long long>(x)}; }
  Message operator<<(unsigned long long x) const { return {*this, x}; }
  Message operator<<(double x) const { return {*this, x}; }

  [[gnu::noinline, gnu::cold]] std::string text() const {
    std::string all;
    append_to(all);
    return all;
  }

 private:
  enum class Kind { nothing, text, character, integer, natural, real };

  // Out of line: they are called where a check has failed.
  [[gnu::noinline, gnu::cold]] Message(const Message& before, std::string_view text)
      : before_(&before), kind_(Kind::text), size_(text.size()), text_(text.data()) {}
  [[gnu::noinline, gnu::cold]] Message(const Message& before, char c)
      : before_(&before), kind_(Kind::character), character_(c) {}
  [[gnu::noinline, gnu::cold]] Message(const Message& before, long long x)
      : before_(&before), kind_(Kind::integer), integer_(x) {}
  [[gnu::noinline, gnu::cold]] Message(const Message& before, unsigned long long x)
      : before_(&before), kind_(Kind::natural), natural_(x) {}
  [[gnu::noinline, gnu::cold]] Message(const Message& before, double x)
      : before_(&before), kind_(Kind::real), real_(x) {}

  [[gnu::noinline, gnu::cold]] void append_to(std::string& all) const {
    if (before_ != nullptr) before_->append_to(all);
    char digits[32] = "";
    switch (kind_) {
      case Kind::nothing:
        return;
      case Kind::text:
        all.append(text_, size_);
        return;
      case Kind::character:
        all.push_back(character_);
        return;
      case Kind::integer:
        std::snprintf(digits, sizeof digits, "%lld", integer_);
        break;
      case Kind::natural:
        std::snprintf(digits, sizeof digits, "%llu", natural_);
        break;
      case Kind::real:
        std::snprintf(digits, sizeof digits, "%g", real_);
        break;
    }
    all.append(digits);
  }

  const Message* before_ = nullptr;
  Kind kind_ = Kind::nothing;
  std::size_t size_ = 0;
  union {
    const char* text_ = nullptr;
    char character_;
    long long integer_;
    unsigned long long natural_;
    double real_;
  };
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
