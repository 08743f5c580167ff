// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "training.hpp"

namespace uptrain {

/// 16 hexadecimal digits of a hash of the bytes.
std::string digest(std::string_view bytes);

/// Writes the bytes to a file of another name beside `path`, and gives it that name when it is complete: the
/// old file is never half overwritten. Throws std::system_error naming the path.
void write_file(const std::filesystem::path& path, std::string_view bytes);

/// Where a training stands, as a file:
///
///     one line of JSON: {"format", "of", "step", "losses", "parameters", "moments"}, the last two being
///     counts little-endian floats: parameters, first moments, second moments 16 digits, the digest of all
///     before
///
/// `of` says what it is a training of: settings, text and run.
void save_checkpoint(const std::filesystem::path& path, const std::string& of, const Training& training);

/// Nothing where there is no file. Throws gqa::format_error for a file that is damaged or none of ours,
/// std::invalid_argument for one of another training than `of`, both naming the path, and std::system_error
/// where it cannot be read.
std::optional<Training> load_checkpoint(const std::filesystem::path& path, const std::string& of);

}  // namespace uptrain
