// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "options.hpp"

namespace latent_convert {

/// Measures as the options say, and prints what came of it. Returns the exit code. Throws as Gguf,
/// make_attention() and gqa::detail::Replacement do.
int run(const Options& options);

}  // namespace latent_convert
