// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iostream>
#include <string>

namespace generate {

/// Prints one line to standard error, whatever the message quotes from a file, and returns the exit code.
inline int fail(const char* program, int code, std::string message) {
  std::ranges::replace_if(
      message, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7F'; }, '?');
  std::cerr << program << ": " << message << "\n";
  return code;
}

}  // namespace generate
