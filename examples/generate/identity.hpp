// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "gguf.hpp"

namespace generate {

/// Which model a file's keys and values are of, as the label of a saved cache: its name, for people, and a
/// digest (XXH3) of all its bytes, since a model that was trained further has the same name and sizes.
/// Throws std::invalid_argument where this program was built without xxHash.
std::string identity(const Gguf& model, std::span<const std::byte> bytes);

}  // namespace generate
