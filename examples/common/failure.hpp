// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <exception>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>

#include "gqa/core/error.hpp"

namespace common {

/// Prints one line to standard error, whatever the message quotes from a file, and returns the exit code.
inline int fail(const char* program, int code, std::string message) {
  std::ranges::replace_if(
      message, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7F'; }, '?');
  std::cerr << program << ": " << message << "\n";
  return code;
}

/// What main() returns for run(), or run(model), which returns the exit code and sets `model` to the name of
/// the file that a format_error is about. 2: the arguments, the prompt or the file are wrong; 1: anything
/// else that throws.
template <class Run>
int exit_code_of(const char* program, Run&& run) {
  std::string model;
  try {
    int code = 0;
    if constexpr (std::is_invocable_v<Run, std::string&>)
      code = run(model);
    else
      code = run();
    if (!std::cout.flush()) return fail(program, 1, "cannot write to standard output");
    return code;
  } catch (const gqa::format_error& error) {
    return fail(program, 2, model + ": " + error.what());
  } catch (const std::invalid_argument& error) {
    return fail(program, 2, error.what());
  } catch (const std::system_error& error) {
    return fail(program, 2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(program, 1, "not enough memory");
  } catch (const std::exception& error) {
    return fail(program, 1, error.what());
  }
}

}  // namespace common
