// SPDX-License-Identifier: Apache-2.0
// The masks: small values of absolute positions that compose with &, | and !.
#pragma once

#include "gqa/explain.hpp"
#include "gqa/mask/any_mask.hpp"
#include "gqa/mask/block_mask.hpp"
#include "gqa/mask/chunked.hpp"
#include "gqa/mask/compose.hpp"
#include "gqa/mask/dilated.hpp"
#include "gqa/mask/document.hpp"
#include "gqa/mask/layer_pattern.hpp"
#include "gqa/mask/mask_concept.hpp"
#include "gqa/mask/mask_fn.hpp"
#include "gqa/mask/mask_tensor.hpp"
#include "gqa/mask/page_selection.hpp"
#include "gqa/mask/per_head.hpp"
#include "gqa/mask/prefix.hpp"
#include "gqa/mask/sinks.hpp"
#include "gqa/mask/tree.hpp"
#include "gqa/mask/window.hpp"
