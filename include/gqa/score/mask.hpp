// SPDX-License-Identifier: Apache-2.0
// The masks: small values of absolute positions that compose with &, | and !.
#pragma once

#include "gqa/score/any_mask.hpp"
#include "gqa/score/block_mask.hpp"
#include "gqa/score/chunked.hpp"
#include "gqa/score/compose.hpp"
#include "gqa/score/dilated.hpp"
#include "gqa/score/document.hpp"
#include "gqa/score/explain.hpp"
#include "gqa/score/layer_pattern.hpp"
#include "gqa/score/mask_concept.hpp"
#include "gqa/score/mask_fn.hpp"
#include "gqa/score/mask_tensor.hpp"
#include "gqa/score/per_head.hpp"
#include "gqa/score/prefix.hpp"
#include "gqa/score/sinks.hpp"
#include "gqa/score/tree.hpp"
#include "gqa/score/window.hpp"
