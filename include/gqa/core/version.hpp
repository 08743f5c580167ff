// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/core/toolchain.hpp"

namespace gqa {

struct Version {
  int major, minor, patch;
};

/// The version of the library. This line is its only definition: the build reads it from here.
inline constexpr Version version = {0, 1, 0};

}  // namespace gqa
