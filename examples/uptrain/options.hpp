// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>

#include "settings.hpp"

namespace uptrain {

struct Options {
  std::optional<std::filesystem::path> text;  ///< none: the Bible
  std::optional<std::filesystem::path> out;   ///< a folder for results, plots and checkpoints
  Settings settings;                          ///< but for the vocabulary
  double checkpoint_seconds = 20;
  Index threads = 1;
  bool json = false;
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace uptrain
