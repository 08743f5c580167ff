// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "method.hpp"
#include "shape.hpp"

namespace uptrain {

/// All that decides what an experiment computes, beside its text.
struct Settings {
  Shape shape;                                      ///< of the MHA model; its vocabulary is the text's
  Index steps = 1600;                               ///< of training from scratch
  Index batch = 8;                                  ///< sequences a step
  Index measured = 256;                             ///< sequences of the text that losses are measured on
  Index calibrated = 16;                            ///< batches whose activations conversions see
  Index seeds = 3;                                  ///< trained from 1, 2, ...
  std::vector<double> shares = {0.02, 0.05, 0.10};  ///< of the steps, after which uptraining is measured
  std::vector<Method> methods{std::begin(all_methods), std::end(all_methods)};
  double rate = 2e-3;  ///< highest learning rate of training from scratch; a tenth of it at the end
  double uptraining_rate = 1e-3;  ///< of uptraining

  /// H / 2, H / 4 and 1.
  std::vector<Index> kv_heads() const {
    std::vector<Index> counts;
    for (const Index count : {shape.num_q_heads / 2, shape.num_q_heads / 4, Index{1}})
      if (counts.empty() || count < counts.back()) counts.push_back(count);
    return counts;
  }
  Index steps_of(double share) const {
    return static_cast<Index>(std::lround(share * static_cast<double>(steps)));
  }
  Index uptraining_steps() const { return steps_of(shares.back()); }

  nlohmann::ordered_json json() const {
    auto names = nlohmann::ordered_json::array();
    for (const Method method : methods) names.push_back(name_of(method));
    return {{"vocabulary", shape.vocabulary},
            {"parameters", Places(shape).size},
            {"layers", shape.layers},
            {"width", shape.width},
            {"q_heads", shape.num_q_heads},
            {"hidden", shape.hidden},
            {"context", shape.context},
            {"rope_theta", shape.theta},
            {"steps", steps},
            {"batch", batch},
            {"measured_sequences", measured},
            {"calibration_batches", calibrated},
            {"shares", shares},
            {"rate", rate},
            {"uptraining_rate", uptraining_rate},
            {"seeds", seeds},
            {"methods", names}};
  }
};

}  // namespace uptrain
