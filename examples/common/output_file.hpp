// SPDX-License-Identifier: Apache-2.0
// Files that a program writes when its work is done.
#pragma once

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

namespace common {

/// What cannot be written is known before long work: makes the file where there is none, and leaves what is
/// in it. Throws std::system_error naming the path.
inline void check_writable(const std::filesystem::path& path) {
  if (!std::ofstream(path, std::ios::binary | std::ios::app))
    throw std::system_error(errno, std::generic_category(), path.string());
}

/// Throws std::system_error naming the path.
inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (!(file << text) || !file.flush())
    throw std::system_error(errno, std::generic_category(), path.string());
}

}  // namespace common
