// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server.hpp"

namespace serve_batch {

struct Options {
  std::filesystem::path model;
  std::vector<std::string> prompts;
  std::string system;  ///< before every prompt
  bool chat = false;
  Index arrival = 2;  ///< passes from one request to the next
  Settings settings;
  Index num_threads = 1;
  std::optional<generate::WeightType> weights;
  generate::CacheType cache_type = generate::CacheType::f32;
  bool verify = false;
  bool json = false;
};

/// The options of a command line, the prompts read from their file. Prints help and returns nothing when
/// asked for it. Throws std::invalid_argument with one line that says what is wrong, std::system_error for a
/// file that cannot be read.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace serve_batch
