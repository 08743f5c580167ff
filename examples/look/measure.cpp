// SPDX-License-Identifier: Apache-2.0
#include "measure.hpp"

#include <algorithm>
#include <cmath>
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "generation.hpp"
#include "gqa/inspect/head_divergence.hpp"
#include "gqa/inspect/probability_rows.hpp"
#include "gqa/inspect/rollout.hpp"
#include "gqa/mask/window.hpp"

namespace look {
namespace {

/// Adds rows to the heat maps of a layer's heads.
class Maps {
 public:
  Maps(std::vector<HeatMap>& maps, Index num_tokens, Index cell)
      : maps_(maps), num_tokens_(num_tokens), cell_(cell) {
    const Index n = (num_tokens + cell - 1) / cell;
    for (HeatMap& map : maps) map.assign(static_cast<std::size_t>(n * (n + 1) / 2), 0);
  }

  void add(const gqa::ProbabilityRows& rows) {
    for (Index t = 0; t < rows.num_tokens; ++t) {
      const Index i = rows.position(t), a = i / cell_;
      const auto in_cell = static_cast<float>(std::min(cell_, num_tokens_ - a * cell_));
      for (Index h = 0; h < rows.num_heads; ++h) {
        const auto row = rows.row(t, h);
        float* cells = maps_[static_cast<std::size_t>(h)].data() + a * (a + 1) / 2;
        for (Index j = rows.first_key; j <= i; ++j)
          cells[j / cell_] += row[static_cast<std::size_t>(j - rows.first_key)] / in_cell;
      }
    }
  }

 private:
  std::vector<HeatMap>& maps_;
  Index num_tokens_, cell_;
};

}  // namespace

Look look_at(const generate::Model& model, gqa::PoolExecutor executor, const std::vector<TokenId>& tokens,
             const Options& options, const std::function<void(double)>& progress) {
  const generate::Hyperparameters& sizes = model.sizes;
  const Index n = std::ssize(tokens);
  Look look{
      .tokens = tokens, .layers = {}, .cell = (n + options.cells - 1) / options.cells, .importance = {}};
  look.num_cells = (n + look.cell - 1) / look.cell;
  const auto grouping = gqa::HeadGrouping::contiguous(sizes.num_q_heads, sizes.num_kv_heads);
  const double passes =
      options.importance ? static_cast<double>(1 + sizes.num_layers * sizes.num_q_heads) : 1;

  // The rollout of the last token alone would need the layers from the last to the first: all sources, then,
  // where there are few tokens, and none where there are many.
  std::optional<gqa::Rollout> rollout;
  if (n <= options.cells) rollout.emplace(n);
  const auto measure = [&](Index index, const auto& q, const auto& k, const auto& v, const auto&) {
    gqa::HeadMeasures measures(sizes.num_q_heads,
                               {.sinks = options.sinks, .window = options.window, .tokens = tokens});
    gqa::HeadDivergence divergence(sizes.num_q_heads);
    LayerLook& layer = look.layers.emplace_back();
    layer.maps.resize(static_cast<std::size_t>(sizes.num_q_heads));
    Maps maps(layer.maps, n, look.cell);
    gqa::for_probabilities(
        executor, q, k, v, {},
        [&](const gqa::ProbabilityRows& rows) {
          measures.add(rows);
          divergence.add(rows);
          maps.add(rows);
          if (rollout) rollout->add(rows);
        },
        gqa::sliding_window(sizes.window(index)), gqa::AttentionOptions{.scale = sizes.attention_scale});
    for (Index h = 0; h < sizes.num_q_heads; ++h) {
      layer.heads.push_back(measures.head(h));
      for (Index other = 0; other < sizes.num_q_heads; ++other)
        layer.divergence.push_back(divergence.between(h, other));
    }
    layer.within = divergence.within_groups(grouping);
    layer.between = divergence.between_groups(grouping);
    if (rollout) {
      rollout->next_layer();
      for (Index j = 0; j < n; ++j) layer.last_token.push_back((*rollout)(n - 1, j));
    }
    progress(static_cast<double>(index + 1) / static_cast<double>(sizes.num_layers) / passes);
  };
  const auto session = generate::make_session(model, generate::CacheType::f32, executor, measure);
  session->append(tokens);
  if (!options.importance) return look;

  std::optional<gqa::HeadPlace> without;
  const auto leave = [&](Index index, const auto&, const auto&, const auto&, const auto& out) {
    if (without && without->layer == index) gqa::leave_out(out, without->head);
  };
  const auto reader = generate::make_session(model, generate::CacheType::f32, executor, leave);
  double pass = 1;
  look.importance = gqa::leave_one_out(sizes.num_layers, sizes.num_q_heads, [&](auto place) {
    without = place;
    progress(pass++ / (passes + 1));
    return n < 2 ? 0 : generate::measure(*reader, tokens, n).mean_negative_log;  // in one piece
  });
  return look;
}

}  // namespace look
