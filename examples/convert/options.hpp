// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>

#include "conversion.hpp"
#include "tensor_type.hpp"

namespace convert {

struct Options {
  std::filesystem::path model;
  std::filesystem::path out;
  Settings settings;  ///< but for what the model says
  std::optional<std::filesystem::path> factors;
  std::optional<gqa::convert::HeadDistance> distance;
  std::optional<generate::TensorType> type;
  std::optional<std::filesystem::path> calibration;
  double noise = 0;  ///< added to what the calibration saw
  std::optional<std::filesystem::path> perplexity;
  std::optional<std::filesystem::path> groups;  ///< a folder for pictures and a table of the groups
  Index context = 512;                          ///< tokens of a text that see each other
  Index max_tokens = 0;                         ///< read of each text; 0: all
  Index num_threads = 1;
  bool json = false;
  /// Options that say how heads are joined: of no meaning where there are to be more of them.
  std::optional<std::string> joining;
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace convert
