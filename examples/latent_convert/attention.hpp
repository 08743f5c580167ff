// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "form.hpp"
#include "gqa/convert/calibration.hpp"
#include "loaded_model.hpp"

namespace latent_convert {

/// The attention of all layers of a model, with the cache that its form has.
class Attention {
 public:
  virtual ~Attention() = default;

  /// Makes room for n tokens, which each layer is then given once. Throws as the cache does.
  virtual void extend(Index n) = 0;
  /// A layer for the tokens of the last extend().
  virtual void forward(Index layer, const generate::Matrix& inputs, generate::Matrix& outputs) = 0;
  virtual void truncate(Index n) = 0;
  virtual void clear() = 0;
  virtual Index size() const = 0;
  virtual Index bytes() const = 0;               ///< of the tokens there are
  virtual Index elements_per_token() const = 0;  ///< of one layer
};

/// All layers converted, with a cache of f16 for as many tokens as the model's context. `calibration` has
/// what each layer reads. Throws std::invalid_argument naming the layer and the size of the form that it
/// cannot have.
std::unique_ptr<Attention> make_attention(const generate::ModelFile& file, const Form& form,
                                          const std::vector<gqa::convert::Calibration>& calibration,
                                          gqa::PoolExecutor executor);

}  // namespace latent_convert
