// SPDX-License-Identifier: Apache-2.0
// The masks: small values of absolute positions that compose with &, | and !.
#pragma once

#include "gqa/score/compose.hpp"
#include "gqa/score/mask_concept.hpp"
#include "gqa/score/mask_fn.hpp"
#include "gqa/score/window.hpp"
