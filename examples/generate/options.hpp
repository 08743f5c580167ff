// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "session.hpp"

namespace generate {

struct Options {
  std::filesystem::path model;
  std::string prompt;
  std::optional<std::filesystem::path> prompt_file;
  std::optional<std::filesystem::path> perplexity;  ///< a text to measure instead of a prompt to continue
  bool chat = false;  ///< and where there is no prompt: turns from standard input
  Index max_tokens = 256;
  double temperature = 0;
  Index top_k = 40;
  Index seed = 0;
  Index num_threads = 1;
  std::optional<WeightType> weights;
  CacheType cache_type = CacheType::f32;
  CacheKind cache_kind = CacheKind::contiguous;
  std::optional<std::filesystem::path> load;  ///< a cache to go on from
  std::optional<std::filesystem::path> save;  ///< where to keep it in the end
  bool json = false;

  bool converses() const { return chat && prompt.empty() && !prompt_file; }
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace generate
