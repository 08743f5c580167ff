// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "generation.hpp"
#include "gqa/convert/calibration.hpp"
#include "model.hpp"

namespace convert {

using generate::TokenId;
using gqa::Index;

/// What each layer's projections read while the model goes through a text, in pieces of `context` tokens that
/// do not see each other; nothing where `stop` said so. Throws std::invalid_argument for a text of no tokens.
std::vector<gqa::convert::Calibration> calibrate(const generate::Model& model, gqa::PoolExecutor executor,
                                                 std::span<const TokenId> tokens, Index context,
                                                 const generate::Progress& progress = {},
                                                 const generate::Stop& stop = {});

}  // namespace convert
