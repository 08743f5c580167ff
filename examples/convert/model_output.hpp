// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "gguf_output.hpp"

namespace convert {

/// The source's file with some of its tensors replaced, in its order; with a type, all matrices are of that.
OutputFile model_output(const Gguf& source, std::optional<TensorType> type,
                        std::vector<OutputTensor> changed);

/// Writes it where it will be renamed from. Returns its bytes. Throws as
/// OutputFile::write does; `progress` gets the part done, and may throw.
Index write_model(const OutputFile& output, gqa::detail::Replacement& target,
                  const std::function<void(double)>& progress);

}  // namespace convert
