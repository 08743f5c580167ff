// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "model_options.hpp"
#include "prompt_lookup.hpp"

namespace speculate {

struct Options : generate::ModelOptions {
  std::string prompt;
  std::optional<std::filesystem::path> prompt_file;
  PromptLookup lookup;
  bool verify = false;
  bool compare = false;
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace speculate
