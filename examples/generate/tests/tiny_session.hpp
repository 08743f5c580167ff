// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <random>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <vector>

#include "gguf.hpp"
#include "model.hpp"
#include "tiny_model.hpp"
#include "tokenizer.hpp"

namespace generate::test {

/// A tiny model in memory, and threads to compute with.
struct TinyModel {
  explicit TinyModel(const GgufWriter& writer = tiny_model())
      : bytes(writer.file()), file(bytes), tokenizer(file), model(file, executor) {}

  std::vector<std::byte> bytes;
  Gguf file;
  Tokenizer tokenizer;
  Eigen::ThreadPool pool{2};
  gqa::PoolExecutor executor{pool};
  Model model;
};

/// Random tokens of the tiny models' vocabulary; no special ones.
inline std::vector<TokenId> some_tokens(Index n, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<TokenId> token(3, 264);
  std::vector<TokenId> tokens;
  for (Index i = 0; i < n; ++i) tokens.push_back(token(random));
  return tokens;
}

}  // namespace generate::test
