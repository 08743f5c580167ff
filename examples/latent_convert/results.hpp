// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "form.hpp"

namespace latent_convert {

/// A form as it was measured.
struct Measured {
  Form form;
  Index elements = 0;       ///< of a token and layer
  double output_error = 0;  ///< |y - y'|^2 / |y|^2 of layers' outputs, their mean
  double perplexity = 0;
  std::optional<double> decode_ms = {};  ///< of attention, projections included, for one token
};

struct Results {
  std::string model;
  Index num_layers = 0;
  Index calibration_tokens = 0, measured_tokens = 0, context = 0, decode_context = 0;
  std::vector<Measured> forms = {};

  Index bytes_per_token(const Measured& form) const { return form.elements * num_layers * 2; }
  std::string text() const;
  nlohmann::ordered_json json() const;
  std::string svg() const;  ///< perplexity by bytes a token, a curve a family
};

}  // namespace latent_convert
