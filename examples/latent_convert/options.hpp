// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "form.hpp"

namespace latent_convert {

struct Options {
  std::filesystem::path model;
  std::filesystem::path calibration;         ///< a text
  double noise = 1e-3;                       ///< added to what the calibration saw
  std::filesystem::path perplexity;          ///< another
  std::optional<std::filesystem::path> out;  ///< a folder for results.json and perplexity.svg
  std::vector<Form> forms;                   ///< none: default_forms()
  Index context = 512;                       ///< tokens of a text that see each other
  Index max_tokens = 0;                      ///< read of each text; 0: all
  Index decode = 0;  ///< tokens that are in the cache when decoding is timed; 0: it is not
  Index num_threads = 1;
  bool json = false;
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace latent_convert
