// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "gguf_output.hpp"
#include "gqa/convert/weights.hpp"
#include "hyperparameters.hpp"

namespace convert {

/// The projections of a layer's attention, from the file's tensors. Throws gqa::format_error naming a tensor
/// that is missing, of another shape than the sizes say, or holds NaN or infinity.
gqa::convert::Weights read_attention(const Gguf& file, const generate::Hyperparameters& sizes, Index layer);

/// The tensors of the converted layer, as a file is to have them: matrices of `type`, biases of F32.
///
/// Without a type, a tensor keeps the file's blocks where its heads are heads of the source's tensor, in any
/// order and number; one whose values are new is F16.
std::vector<OutputTensor> attention_tensors(const Gguf& file, Index layer,
                                            const gqa::convert::Weights& source,
                                            const gqa::convert::Weights& converted,
                                            std::optional<TensorType> type);

/// `type`, or F16 where rows of so many values are no whole number of its blocks.
TensorType type_for_rows(TensorType type, Index columns);

}  // namespace convert
