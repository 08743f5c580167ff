// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "gqa/explain.hpp"
#include "measure.hpp"

namespace look {

/// All that was measured but the heat maps; text that is no UTF-8 has its bytes replaced.
nlohmann::ordered_json to_json(const Look& look, const generate::Hyperparameters& sizes,
                               const generate::Tokenizer& tokenizer);

/// Which keys a layer's queries see.
gqa::Explanation explain_mask(const generate::Hyperparameters& sizes, Index layer, Index num_tokens);

/// One HTML document with everything in it: it asks for no other file.
std::string page(const Look& look, const generate::Hyperparameters& sizes,
                 const generate::Tokenizer& tokenizer);

}  // namespace look
