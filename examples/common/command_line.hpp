// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <iostream>
#include <stdexcept>
#include <string>

#include "gqa/core/version.hpp"

namespace common {

/// "PROGRAM gqa 0.1.0"
inline std::string version_line(const std::string& program) {
  return program + " gqa " + std::to_string(gqa::version.major) + "." + std::to_string(gqa::version.minor) +
         "." + std::to_string(gqa::version.patch);
}

/// Reads a command line. False when it asked for help or the version, which is printed. Throws
/// std::invalid_argument with one line that says what is wrong.
inline bool parse(CLI::App& app, int argc, const char* const* argv) {
  app.set_help_flag("-h,--help", "print this help");
  app.set_version_flag("--version", version_line(app.get_name()), "print the version");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return false;
  } catch (const CLI::CallForVersion& version) {
    std::cout << version.what() << "\n";
    return false;
  } catch (const CLI::ParseError& error) {
    throw std::invalid_argument(error.what());
  }
  return true;
}

}  // namespace common
