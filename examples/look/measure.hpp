// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gqa/inspect/head_measures.hpp"
#include "gqa/inspect/leave_one_out.hpp"
#include "loaded_model.hpp"
#include "options.hpp"

namespace look {

using generate::TokenId;

/// Probabilities of one head as a lower triangle of cells, row after row: cell (a, b) is the mass that a
/// query of the a-th run of tokens puts on the b-th run of keys, on average.
using HeatMap = std::vector<float>;

/// What one layer's heads look at.
struct LayerLook {
  std::vector<gqa::HeadMeasure> heads;
  std::vector<HeatMap> maps;
  std::vector<double> divergence;  ///< num_q_heads x num_q_heads
  double within = 0, between = 0;  ///< means of it over pairs of heads in the same and in different groups
  std::vector<double> last_token;  ///< rollout up to this layer: what the last token is made of
};

/// What a model's heads look at in a text.
struct Look {
  std::vector<TokenId> tokens;
  std::vector<LayerLook> layers;
  Index cell = 1;       ///< tokens a cell stands for
  Index num_cells = 0;  ///< a side
  /// Of the mean of -ln p over the tokens after the first, where that was asked for.
  std::optional<gqa::HeadImportance> importance;

  double within() const { return mean(&LayerLook::within); }
  double between() const { return mean(&LayerLook::between); }

 private:
  double mean(double LayerLook::*member) const {
    double sum = 0;
    for (const LayerLook& layer : layers) sum += layer.*member;
    return sum / static_cast<double>(layers.size());
  }
};

/// Reads the tokens, in memory linear in their number but for the maps of at most `options.cells` a side.
/// `progress` is told 0 to 1.
Look look_at(const generate::Model& model, gqa::PoolExecutor executor, const std::vector<TokenId>& tokens,
             const Options& options, const std::function<void(double)>& progress);

}  // namespace look
