// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "gqa/simd/isa.hpp"

namespace gqa::test {

/// The instruction sets this processor has, the generic one first.
inline std::vector<Isa> supported_isas() {
  std::vector<Isa> list;
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx})
    if (supports(isa)) list.push_back(isa);
  return list;
}

}  // namespace gqa::test
