// SPDX-License-Identifier: Apache-2.0
// The whole library.
#pragma once

#include "gqa/core/toolchain.hpp"  // before Eigen, which takes seconds to read
//
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gqa/attention.hpp"
#include "gqa/attention_backward.hpp"
#include "gqa/attention_scores.hpp"
#include "gqa/attention_weights.hpp"
#include "gqa/cache.hpp"
#include "gqa/cascade.hpp"
#include "gqa/clustered_attention.hpp"
#include "gqa/convert.hpp"
#include "gqa/core/version.hpp"
#include "gqa/explain.hpp"
#include "gqa/inspect/attention_mass.hpp"
#include "gqa/inspect/head_divergence.hpp"
#include "gqa/inspect/head_measures.hpp"
#include "gqa/inspect/leave_one_out.hpp"
#include "gqa/inspect/probability_rows.hpp"
#include "gqa/inspect/rollout.hpp"
#include "gqa/layer/attention_layer.hpp"
#include "gqa/layer/attention_tape.hpp"
#include "gqa/layer/latent_attention.hpp"
#include "gqa/layer/linear.hpp"
#include "gqa/layer/linear_backward.hpp"
#include "gqa/layer/linformer.hpp"
#include "gqa/layer/low_rank_attention.hpp"
#include "gqa/mask.hpp"
#include "gqa/plan/cache_plan.hpp"
#include "gqa/plan/capacity.hpp"
#include "gqa/plan/cost.hpp"
#include "gqa/plan/measure_rates.hpp"
#include "gqa/plan/tune.hpp"
#include "gqa/plan/tuning_file.hpp"
#include "gqa/position/qk_norm.hpp"
#include "gqa/position/rope.hpp"
#include "gqa/position/rope_table.hpp"
#include "gqa/reference/attention.hpp"
#include "gqa/reference/attention_backward.hpp"
#include "gqa/reference/latent_attention.hpp"
#include "gqa/score.hpp"
#include "gqa/sparse_attention.hpp"

static_assert(gqa::detail::eigen::ColMajor == Eigen::ColMajor &&
                  gqa::detail::eigen::RowMajor == Eigen::RowMajor &&
                  gqa::detail::eigen::ReadOnlyAccessors == Eigen::ReadOnlyAccessors &&
                  gqa::detail::eigen::DirectAccessBit == Eigen::DirectAccessBit &&
                  std::is_same_v<gqa::detail::eigen::Index, Eigen::Index>,
              "gqa: core/eigen.hpp says otherwise of this Eigen, or macros of Eigen's were set between its "
              "headers and ours");
