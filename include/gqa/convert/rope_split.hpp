// SPDX-License-Identifier: Apache-2.0
// Which part of keys stays rotated when the rest becomes a latent.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <numeric>
#include <vector>

#include "gqa/convert/linear_algebra.hpp"
#include "gqa/position/rope.hpp"

namespace gqa::convert {

/// Which rotated pairs of keys stay so (MHA2MLA, Ji et al. 2025, arXiv 2502.14837).
enum class KeptPairs {
  by_norm,         ///< those that contribute most to scores, E |q|^2 E |k|^2
  by_turn,         ///< the same, times how much they turn within the context: E |e^(i omega t) - 1|^2
  high_frequency,  ///< those that turn fastest
  uniform,         ///< at equal steps of frequency
};

namespace detail {

using Complex = std::complex<double>;

/// The keys of G heads at one frequency omega, a complex number a head: z = k_a + i k_b, which RoPE turns by
/// e^(i omega p). Any complex G x G matrix commutes with that, so keys may be mixed over heads: y = `to` z,
/// z = `from` y, with the components y that weigh most in front (TransMLA's RoRoPE, Meng et al. 2025,
/// arXiv 2502.07864, there real).
struct MixedHeads {
  std::vector<Complex> to, from;  // G x G, row after row
  std::vector<double> energies;   // of each component, in the squares of scores

  Index size() const { return std::ssize(energies); }
  Complex to_component(Index c, Index head) const { return to[static_cast<std::size_t>(c * size() + head)]; }
  Complex from_component(Index head, Index c) const {
    return from[static_cast<std::size_t>(head * size() + c)];
  }
};

/// Each head for itself: y = z.
inline MixedHeads unmixed_heads(const std::vector<Complex>& moments, const std::vector<double>& weights) {
  const auto heads = weights.size();
  MixedHeads mixed{std::vector<Complex>(heads * heads), std::vector<Complex>(heads * heads), {}};
  for (std::size_t g = 0; g < heads; ++g) {
    mixed.to[g * heads + g] = mixed.from[g * heads + g] = 1;
    mixed.energies.push_back(weights[g] * weights[g] * moments[g * heads + g].real());
  }
  return mixed;
}

/// The principal components of diag(weights) z, given E z z^H: y = V^H diag(weights) z, V unitary, largest
/// first. `weights` say what a head's keys count for and are positive.
template <class Real>
MixedHeads mix_heads(const std::vector<Complex>& moments, const std::vector<double>& weights) {
  const auto n = std::ssize(weights);
  const auto at = [&](Index g, Index k) {
    return weights[static_cast<std::size_t>(g)] * weights[static_cast<std::size_t>(k)] *
           moments[static_cast<std::size_t>(g * n + k)];
  };
  // The same operator on pairs of real numbers. Each complex eigenvector v is two of its own, v and i v; both
  // are moved below all others once one is found.
  Matrix real(2 * n, 2 * n);
  double trace = 0;
  for (Index g = 0; g < n; ++g) {
    trace += at(g, g).real();
    for (Index k = 0; k < n; ++k) {
      real(g, k) = real(n + g, n + k) = at(g, k).real();
      real(n + g, k) = at(g, k).imag();
      real(g, n + k) = -at(g, k).imag();
    }
  }
  const double below = trace > 0 ? trace : 1;
  MixedHeads mixed{std::vector<Complex>(static_cast<std::size_t>(n * n)),
                   std::vector<Complex>(static_cast<std::size_t>(n * n)),
                   {}};
  for (Index c = 0; c < n; ++c) {
    const auto eigen = Algebra<Real>::symmetric_eigen(real);
    const double value = eigen.values.front();
    mixed.energies.push_back(std::max(value, 0.0));
    for (Index g = 0; g < n; ++g) {
      const Complex v(eigen.vectors(g, 0), eigen.vectors(n + g, 0));
      const double weight = weights[static_cast<std::size_t>(g)];
      mixed.to[static_cast<std::size_t>(c * n + g)] = std::conj(v) * weight;
      mixed.from[static_cast<std::size_t>(g * n + c)] = v / weight;
    }
    const auto turned = [&](Index r) { return r < n ? -eigen.vectors(n + r, 0) : eigen.vectors(r - n, 0); };
    for (Index r = 0; r < 2 * n; ++r)
      for (Index k = 0; k < 2 * n; ++k)
        real(r, k) -= (value + below) * (eigen.vectors(r, 0) * eigen.vectors(k, 0) + turned(r) * turned(k));
  }
  return mixed;
}

/// E |e^(i omega t) - 1|^2 over the distances t of the queries and keys of `context` tokens, each of which
/// sees itself and those before it.
inline double mean_turn(double omega, Index context) {
  double sum = 0, pairs = 0;
  for (Index t = 0; t < context; ++t) {
    const double count = static_cast<double>(context - t);
    sum += count * (2 - 2 * std::cos(omega * static_cast<double>(t)));
    pairs += count;
  }
  return sum / pairs;
}

/// A component of the keys of all heads at one frequency.
struct RotatedComponent {
  Index pair = 0, component = 0;
};

/// The `count` components that stay rotated, in order of pairs. `frequencies` are those of the pairs.
inline std::vector<RotatedComponent> kept_components(const std::vector<MixedHeads>& pairs, Index count,
                                                     KeptPairs kept, std::span<const double> frequencies,
                                                     Index context) {
  const auto num_pairs = std::ssize(pairs);
  const Index heads = pairs.empty() ? 1 : pairs.front().size();
  // Most valued first; of equals the one of the lower pair.
  std::vector<double> value;
  std::vector<RotatedComponent> all;
  const Index chosen = std::max<Index>(1, ceil_div(count, heads));  // of uniform: pairs
  for (Index i = 0; i < num_pairs; ++i) {
    const double turn =
        kept == KeptPairs::by_turn ? mean_turn(frequencies[static_cast<std::size_t>(i)], context) : 1;
    // Pair floor(j num_pairs / chosen) for j = 0, 1, ...
    const Index j = ceil_div(i * chosen, num_pairs);
    const bool on_step = j < chosen && j * num_pairs / chosen == i;
    for (Index c = 0; c < heads; ++c) {
      all.push_back({i, c});
      switch (kept) {
        case KeptPairs::by_norm:
        case KeptPairs::by_turn:
          value.push_back(turn * pairs[static_cast<std::size_t>(i)].energies[static_cast<std::size_t>(c)]);
          break;
        case KeptPairs::high_frequency:
          value.push_back(-static_cast<double>(i * heads + c));
          break;
        case KeptPairs::uniform:
          value.push_back(-static_cast<double>((on_step ? 0 : heads) + c));
          break;
      }
    }
  }
  std::vector<std::size_t> order(all.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return value[a] > value[b]; });
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  std::vector<RotatedComponent> result;
  for (const std::size_t i : order) result.push_back(all[i]);
  return result;
}

}  // namespace detail

}  // namespace gqa::convert
