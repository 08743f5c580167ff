// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gguf.hpp"
#include "mapped_file.hpp"
#include "model.hpp"
#include "tokenizer.hpp"

namespace generate {

/// A GGUF file, and what is needed to read its text: all but the weights.
struct ModelFile {
  MappedFile bytes;
  Gguf gguf;
  Hyperparameters sizes;
  Tokenizer tokenizer;

  /// Throws std::system_error and gqa::format_error.
  explicit ModelFile(const std::filesystem::path& path)
      : bytes(path), gguf(bytes.bytes(), check_metadata), sizes(read_hyperparameters(gguf)), tokenizer(gguf) {
    GQA_CHECK(tokenizer.vocabulary_size() == sizes.vocabulary_size, gqa::format_error,
              "token_embd.weight has " << sizes.vocabulary_size << " rows for " << tokenizer.vocabulary_size()
                                       << " tokens");
  }
};

/// The weights, and threads to compute with.
struct LoadedModel {
  Eigen::ThreadPool pool;
  gqa::PoolExecutor executor{pool};
  Model model;

  /// Throws gqa::format_error.
  LoadedModel(const ModelFile& file, Index num_threads, std::optional<WeightType> weights,
              const Progress& progress = {})
      : pool(static_cast<int>(num_threads)),
        model(file.gguf, executor,
              {.weights = weights, .progress = progress, .done_with = [&](std::span<const std::byte> piece) {
                 file.bytes.forget(piece);
               }}) {}
};

}  // namespace generate
