// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "options.hpp"

namespace convert {

/// Converts as the options say, and prints what it did. Returns the exit code. Throws as Gguf,
/// convert_layer() and gqa::detail::Replacement do; the output is there whole or as it was.
int run(const Options& options);

}  // namespace convert
