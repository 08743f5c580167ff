// SPDX-License-Identifier: Apache-2.0
#include "transformer.inl"

namespace uptrain {
template class Transformer<float>;
}  // namespace uptrain
