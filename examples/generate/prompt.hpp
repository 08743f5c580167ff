// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

#include "gqa/core/error.hpp"
#include "mapped_file.hpp"

namespace generate {

/// A file's text without the line break that ends it; `-` is standard input. `option` is what named it.
/// Throws std::invalid_argument when there is none, std::system_error when it cannot be read.
inline std::string read_prompt_file(const std::filesystem::path& path, const std::string& option) {
  const MappedFile input(path);
  std::string text(reinterpret_cast<const char*>(input.bytes().data()), input.bytes().size());
  if (text.ends_with('\n')) text.pop_back();
  GQA_CHECK(!text.empty(), std::invalid_argument,
            option << " is empty: " << (is_standard_input(path) ? "standard input" : path.string())
                   << " holds no text");
  return text;
}

/// The text that --prompt stands for: itself or, for `-`, standard input without the line break that ends it.
/// Throws std::invalid_argument when there is none.
inline std::string read_prompt(const std::string& argument) {
  return argument == "-" ? read_prompt_file("-", "--prompt") : argument;
}

}  // namespace generate
