// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "prompt_lookup.hpp"
#include "session.hpp"

namespace speculate {

struct Options {
  std::filesystem::path model;
  std::string prompt;
  std::optional<std::filesystem::path> prompt_file;
  bool chat = false;
  PromptLookup lookup;
  Index max_tokens = 256;
  Index num_threads = 1;
  generate::CacheType cache_type = generate::CacheType::f32;
  bool verify = false;
  bool compare = false;
  bool json = false;
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace speculate
