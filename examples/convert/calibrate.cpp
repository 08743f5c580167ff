// SPDX-License-Identifier: Apache-2.0
#include "calibrate.hpp"

#include <algorithm>
#include <numeric>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "forward.hpp"
#include "gqa/attention.hpp"
#include "gqa/core/error.hpp"
#include "gqa/kernel/workspace.hpp"
#include "gqa/mask.hpp"

namespace convert {

std::vector<gqa::convert::Calibration> calibrate(const generate::Model& model, gqa::PoolExecutor executor,
                                                 std::span<const TokenId> tokens, Index context,
                                                 const generate::Progress& progress,
                                                 const generate::Stop& stop) {
  GQA_CHECK(!tokens.empty(), std::invalid_argument, "the text has 0 tokens");
  const generate::Hyperparameters& sizes = model.sizes;
  std::vector<gqa::convert::Calibration> layers(static_cast<std::size_t>(sizes.num_layers),
                                                gqa::convert::Calibration(sizes.model_dim));
  generate::Forward forward(model, executor);
  gqa::Workspace workspace;
  std::vector<Index> positions(static_cast<std::size_t>(context));
  std::iota(positions.begin(), positions.end(), Index{0});
  for (std::size_t first = 0; first < tokens.size(); first += positions.size()) {
    if (stop && stop()) return {};
    if (progress) progress(static_cast<double>(first) / static_cast<double>(tokens.size()));
    const auto piece = tokens.subspan(first, std::min(positions.size(), tokens.size() - first));
    forward.run(
        piece, std::span(positions).first(piece.size()),
        [&](Index layer, const auto& q, const auto& k, const auto& v, const auto& out) {
          gqa::attention(executor, q, k, v, out, gqa::causal() & gqa::sliding_window(sizes.window(layer)),
                         gqa::AttentionOptions{.scale = sizes.attention_scale, .workspace = &workspace});
        },
        [&](Index layer, const generate::Matrix& inputs) {
          layers[static_cast<std::size_t>(layer)].add(inputs.data(), inputs.rows());
        });
  }
  return layers;
}

}  // namespace convert
