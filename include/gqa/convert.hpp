// SPDX-License-Identifier: Apache-2.0
// From the weights of multi-head attention to grouped-query or latent attention: heads grouped, joined,
// copied, factorised.
#pragma once

#include "gqa/convert/align.hpp"
#include "gqa/convert/asymmetric.hpp"
#include "gqa/convert/calibration.hpp"
#include "gqa/convert/clustering.hpp"
#include "gqa/convert/dynamic_grouping.hpp"
#include "gqa/convert/expand.hpp"
#include "gqa/convert/grouping_drawing.hpp"
#include "gqa/convert/grouping_report.hpp"
#include "gqa/convert/latent.hpp"
#include "gqa/convert/low_rank.hpp"
#include "gqa/convert/low_rank_layer.hpp"
#include "gqa/convert/merge.hpp"
#include "gqa/convert/similarity.hpp"
