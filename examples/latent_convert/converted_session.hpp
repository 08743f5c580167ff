// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention.hpp"
#include "session.hpp"

namespace latent_convert {

/// A model's session with other attention than its own; both must outlive it.
class ConvertedSession final : public generate::Session {
 public:
  ConvertedSession(const generate::Model& model, gqa::PoolExecutor executor, Attention& attention)
      : forward_(model, executor), attention_(attention) {}

  void append(std::span<const generate::TokenId> tokens) override;
  std::span<const float> logits() override;
  const generate::Matrix& all_logits() override { return forward_.last_logits(forward_.num_tokens()); }
  Index size() const override { return attention_.size(); }
  Index cache_bytes() const override { return attention_.bytes(); }
  double attention_seconds() const override { return forward_.attention_seconds(); }
  void truncate(Index n) override { attention_.truncate(n); }
  void clear() override { attention_.clear(); }

  /// Not of a converted model: these throw std::invalid_argument.
  void append_tree(std::span<const generate::TokenId>, std::span<const Index>) override;
  void save(const std::filesystem::path&, std::string_view) const override;
  void load(const std::filesystem::path&, std::string_view) override;

 private:
  generate::Forward forward_;
  Attention& attention_;
};

/// |y - y'|^2 / |y|^2 of each layer's output, y the source's and y' the converted one's for what the source's
/// layers read while the model goes through `tokens`. Both begin empty.
std::vector<double> output_errors(const generate::Model& model, gqa::PoolExecutor executor, Attention& source,
                                  Attention& converted, std::span<const generate::TokenId> tokens);

}  // namespace latent_convert
