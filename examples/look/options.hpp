// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "gqa/core/shape.hpp"
#include "model_options.hpp"

namespace look {

using gqa::Index;

/// What --svg draws.
enum class Picture { divergence, head, mask };

struct Options : generate::ReadingOptions {
  std::filesystem::path html = "look.html";
  std::filesystem::path svg;
  bool html_wanted = false;
  bool json = false;
  bool explain = false;
  bool importance = false;
  Picture picture = Picture::divergence;
  Index layer = 0, head = 0;
  Index sinks = 1, window = 16;
  Index cells = 128;
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace look
