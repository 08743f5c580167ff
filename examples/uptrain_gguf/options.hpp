// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "uptraining.hpp"

namespace uptrain_gguf {

struct Options {
  std::filesystem::path model;
  std::filesystem::path text;                      ///< to learn
  std::filesystem::path perplexity;                ///< to measure on
  std::filesystem::path out;                       ///< a folder for the model, results and the checkpoint
  std::optional<std::filesystem::path> reference;  ///< a model that is measured and not trained
  std::vector<std::filesystem::path> beside;       ///< results of other runs, for the plot
  std::string name;                                ///< of the curve; empty: the model's file
  Recipe recipe;
  Index max_tokens = 0;  ///< measured on; 0: all
  Index num_threads = 1;
  double checkpoint_seconds = 60;
  bool json = false;
};

/// The options of a command line. Prints help and returns nothing when asked for it. Throws
/// std::invalid_argument with one line that says what is wrong.
std::optional<Options> parse_options(int argc, const char* const* argv);

}  // namespace uptrain_gguf
