// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "measure.hpp"

namespace look {

/// A standalone SVG document of what `options` ask for. Throws std::invalid_argument for a layer or head that
/// the model does not have.
std::string picture(const Look& look, const generate::Hyperparameters& sizes,
                    const generate::Tokenizer& tokenizer, const Options& options);

/// Throws std::invalid_argument for a layer or head that the model does not have.
void check_place(const generate::Hyperparameters& sizes, const Options& options);

}  // namespace look
