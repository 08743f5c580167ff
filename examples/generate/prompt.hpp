// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"

namespace generate {

/// The text that --prompt stands for: itself or, for `-`, standard input without the line break that ends it.
/// Throws std::invalid_argument when there is none.
inline std::string read_prompt(const std::string& argument) {
  if (argument != "-") return argument;
  const MappedFile input("-");
  std::string text(reinterpret_cast<const char*>(input.bytes().data()), input.bytes().size());
  if (text.ends_with('\n')) text.pop_back();
  GQA_CHECK(!text.empty(), std::invalid_argument, "--prompt is empty: standard input holds no text");
  return text;
}

}  // namespace generate
