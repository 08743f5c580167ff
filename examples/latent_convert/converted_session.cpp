// SPDX-License-Identifier: Apache-2.0
#include "converted_session.hpp"

#include "gqa/core/error.hpp"

namespace latent_convert {
namespace {

[[noreturn]] void refuse(const char* what) {
  throw std::invalid_argument(std::string(what) + " is not there for converted attention");
}

}  // namespace

void ConvertedSession::append(std::span<const generate::TokenId> tokens) {
  forward_.check(tokens);
  attention_.extend(std::ssize(tokens));
  forward_.run(tokens, [&](Index layer, const generate::Matrix& inputs, generate::Matrix& outputs) {
    attention_.forward(layer, inputs, outputs);
  });
}

std::span<const float> ConvertedSession::logits() {
  const generate::Matrix& logits = forward_.last_logits(1);
  return {logits.data(), static_cast<std::size_t>(logits.cols())};
}

void ConvertedSession::append_tree(std::span<const generate::TokenId>, std::span<const Index>) {
  refuse("append_tree");
}
void ConvertedSession::save(const std::filesystem::path&, std::string_view) const { refuse("save"); }
void ConvertedSession::load(const std::filesystem::path&, std::string_view) { refuse("load"); }

std::vector<double> output_errors(const generate::Model& model, gqa::PoolExecutor executor, Attention& source,
                                  Attention& converted, std::span<const generate::TokenId> tokens) {
  generate::Forward forward(model, executor);
  forward.check(tokens);
  source.extend(std::ssize(tokens));
  converted.extend(std::ssize(tokens));
  std::vector<double> errors;
  generate::Matrix other;
  forward.run(tokens, [&](Index layer, const generate::Matrix& inputs, generate::Matrix& outputs) {
    other.resize(outputs.rows(), outputs.cols());
    source.forward(layer, inputs, outputs);
    converted.forward(layer, inputs, other);
    errors.push_back((outputs - other).cast<double>().squaredNorm() / outputs.cast<double>().squaredNorm());
  });
  source.clear();
  converted.clear();
  return errors;
}

}  // namespace latent_convert
