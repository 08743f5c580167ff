// SPDX-License-Identifier: Apache-2.0
// Caches to save, a folder to save them in, and what makes two caches the same.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <type_traits>
#include <vector>

#include "gqa/kv/cache.hpp"
#include "support/random.hpp"

namespace gqa::test {

/// A folder of its own, gone at the end.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "gqa_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }
  std::size_t num_files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
  }

 private:
  std::filesystem::path path_;
};

using Bytes = std::vector<unsigned char>;

inline Bytes read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline void write_bytes(const std::filesystem::path& path, const Bytes& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

struct FileShape {
  Index layers = 2, heads = 3, dim = 7, value_dim = 5, capacity = 1000;
};

template <class T>
KVCache<T> cache_of(const FileShape& s) {
  return KVCache<T>({.max_tokens = s.capacity,
                     .num_layers = s.layers,
                     .num_kv_heads = s.heads,
                     .head_dim = s.dim,
                     .value_dim = s.value_dim});
}

/// Random tokens for every layer; those of one seed and position are the same however they are added.
template <class C>
void add_tokens(C& cache, Index n, std::uint64_t seed) {
  using T = typename C::Scalar;
  const Index begin = cache.size(), heads = cache.num_kv_heads();
  const Span span = cache.extend(n);
  for (Index layer = 0; layer < cache.num_layers(); ++layer) {
    std::vector<T> k, v;
    for (Index t = begin; t < begin + n; ++t) {
      const auto of_token = [&](Index dim, std::uint64_t side) {
        return random_values<T>(seed * 1000003 + static_cast<std::uint64_t>(t * 64 + layer * 2) + side,
                                heads * dim);
      };
      const auto ks = of_token(cache.head_dim(), 0), vs = of_token(cache.value_dim(), 1);
      k.insert(k.end(), ks.begin(), ks.end());
      v.insert(v.end(), vs.begin(), vs.end());
    }
    cache.write(layer, span, TensorView<const T>(k.data(), n, heads, cache.head_dim()),
                TensorView<const T>(v.data(), n, heads, cache.value_dim()));
  }
}

template <class C>
C&& with_tokens(C&& cache, Index n, std::uint64_t seed) {
  add_tokens(cache, n, seed);
  return std::forward<C>(cache);
}

/// The bits of what is written in each layer.
template <class C>
std::vector<Bytes> contents(const C& cache) {
  using T = typename C::Scalar;
  std::vector<Bytes> all;
  for (Index layer = 0; layer < cache.num_layers(); ++layer) {
    const Index n = Ranges(cache.layer(layer).retained(0)).hull().end, heads = cache.num_kv_heads();
    std::vector<T> k(static_cast<std::size_t>(n * heads * cache.head_dim())),
        v(static_cast<std::size_t>(n * heads * cache.value_dim()));
    cache.read(layer, {0, n}, TensorView<T>(k.data(), n, heads, cache.head_dim()),
               TensorView<T>(v.data(), n, heads, cache.value_dim()));
    for (const auto* side : {&k, &v}) {
      Bytes bytes(side->size() * sizeof(T));
      if (!bytes.empty()) std::memcpy(bytes.data(), static_cast<const void*>(side->data()), bytes.size());
      all.push_back(std::move(bytes));
    }
  }
  return all;
}

}  // namespace gqa::test
