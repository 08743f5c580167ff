// SPDX-License-Identifier: Apache-2.0
// The whole library.
#pragma once

#include "gqa/attention.hpp"
#include "gqa/position/rope.hpp"
