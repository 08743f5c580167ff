// SPDX-License-Identifier: Apache-2.0
// A stranger's program that keeps its cache in a file.
#include <cstdio>
#include <gqa/gqa.hpp>
#include <gqa/kv/file.hpp>
#include <gqa/kv/mapped_prefix.hpp>

int main() {
  gqa::KVCache<float, 2, 8> cache({.max_tokens = 64}), restored({.max_tokens = 64});
  Eigen::Tensor<float, 3, Eigen::RowMajor> k(5, 2, 8), v(5, 2, 8);
  k.setRandom();
  v.setRandom();
  cache.append(k, v);
  gqa::save(cache, "stranger.cache");
  gqa::restore(restored, "stranger.cache");
  const gqa::MappedPrefix<float> mapped("stranger.cache");
  std::remove("stranger.cache");
  std::printf("files: %d and %d tokens\n", static_cast<int>(restored.size()),
              static_cast<int>(mapped.size()));
  return restored.size() == 5 && mapped.size() == 5 ? 0 : 1;
}
