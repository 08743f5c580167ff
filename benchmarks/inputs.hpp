// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <fstream>
#include <gqa/core/scalar.hpp>
#include <gqa/core/tensor.hpp>
#include <stdexcept>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>

#include "shape.hpp"

namespace bench {

template <class T>
using Tensor = Eigen::Tensor<T, 4, Eigen::RowMajor>;  ///< sequences x tokens x heads x dim

/// Numbers of mean 0 and variance 1, nearly normal: the sum of four uniform ones. Scores are then nearly
/// normal too, as in a model.
template <class T>
Tensor<T> random_tensor(Index sequences, Index tokens, Index heads, Index dim, std::uint64_t seed) {
  Tensor<T> tensor(sequences, tokens, heads, dim);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  constexpr float sigma = 37837.2f;  // of a sum of four 16-bit integers: sqrt(4 * 2^32 / 12)
  for (Index i = 0; i < tensor.size(); ++i) {
    std::uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    const auto sum = static_cast<float>((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
    tensor.data()[i] = static_cast<T>((sum - 131070.0f) / sigma);
  }
  return tensor;
}

template <class T>
Tensor<T> read_tensor(const std::string& file, Index sequences, Index tokens, Index heads, Index dim) {
  Tensor<T> tensor(sequences, tokens, heads, dim);
  const auto bytes = static_cast<std::streamsize>(static_cast<std::size_t>(tensor.size()) * sizeof(T));
  std::ifstream in(file, std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(tensor.data()), bytes) ||
      in.peek() != std::ifstream::traits_type::eof())
    throw std::runtime_error(file + " does not hold " + std::to_string(bytes) + " bytes");
  return tensor;
}

/// One sequence of a batch, or the first `tokens` of it.
template <class T>
gqa::TensorView<const T> sequence(const Tensor<T>& x, Index b, Index tokens) {
  return {x.data() + b * x.dimension(1) * x.dimension(2) * x.dimension(3), tokens, x.dimension(2),
          x.dimension(3)};
}
template <class T>
gqa::TensorView<const T> sequence(const Tensor<T>& x, Index b) {
  return sequence(x, b, x.dimension(1));
}

/// q, and k and v of one layer.
template <class T>
struct Inputs {
  Tensor<T> q, k, v;

  static Inputs random(const Shape& s) {
    return {random_tensor<T>(s.sequences(), s.queries(), s.H, s.D, 1),
            random_tensor<T>(s.sequences(), s.tokens(), s.G, s.D, 2),
            random_tensor<T>(s.sequences(), s.tokens(), s.G, s.D, 3)};
  }
};

}  // namespace bench
