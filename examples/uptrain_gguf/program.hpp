// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "options.hpp"

namespace uptrain_gguf {

/// Trains as the options say, and prints what came of it. Returns the exit code. Throws as Gguf, train() and
/// gqa::detail::Replacement do; outputs are there whole or as they were.
int run(const Options& options);

}  // namespace uptrain_gguf
