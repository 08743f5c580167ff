// SPDX-License-Identifier: Apache-2.0
// The score functions: what happens to a score between its scaling and the mask. They compose with |.
#pragma once

#include "gqa/score/alibi.hpp"
#include "gqa/score/any_score_mod.hpp"
#include "gqa/score/relative_bias.hpp"
#include "gqa/score/score_chain.hpp"
#include "gqa/score/score_fn.hpp"
#include "gqa/score/score_mod_concept.hpp"
#include "gqa/score/sink_logits.hpp"
#include "gqa/score/soft_cap.hpp"
#include "gqa/score/temperature.hpp"
#include "gqa/score/tensor_bias.hpp"
