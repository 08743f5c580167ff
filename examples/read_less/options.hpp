// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "experiment.hpp"

namespace read_less {

struct Options {
  std::filesystem::path model;
  std::string text;
  std::optional<std::filesystem::path> text_file;
  std::filesystem::path svg;
  bool json = false;
  Settings settings;
  std::vector<std::string> keep{"256", "512", "1024", "all"};
  Index num_threads = std::max<Index>(1, std::thread::hardware_concurrency());
  std::string weights = "auto";
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace read_less
