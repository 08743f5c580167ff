// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiment.hpp"
#include "model_options.hpp"

namespace read_less {

struct Options : generate::ReadingOptions {
  std::filesystem::path svg;
  bool json = false;
  Settings settings;
  std::vector<std::string> keep{"256", "512", "1024", "all"};
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace read_less
