// SPDX-License-Identifier: Apache-2.0
// Models described by files: the metadata of a GGUF file, or a config.json.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "gguf.hpp"
#include "report.hpp"

namespace cache_size {

// What a reader of figures from a file should know.
std::string shared_layers_note(Index shared, Index layers);
std::string states_note(Index states, Index layers);
std::string further_layers_note(Index extra);

/// What a GGUF file says; its weights as they lie in it. `local_layers` is how many layers have the window,
/// where a file names one and this program does not know of which layers. Throws gqa::format_error naming the
/// key that is missing, cannot be or is not understood.
Case describe_gguf(const generate::Gguf& file, std::optional<Index> local_layers = {});

/// What a config.json says; its parameters counted where the architecture is known. Throws as describe_gguf.
Case describe_config(const nlohmann::json& config, std::optional<Index> local_layers = {});

/// What a file says, whichever of both it is; of a folder, the config.json in it. `-` is standard input.
/// Throws gqa::format_error for what is neither, std::system_error where it cannot be read.
Case read_model(const std::filesystem::path& path, std::optional<Index> local_layers = {});

}  // namespace cache_size
