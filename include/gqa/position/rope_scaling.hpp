// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <optional>
#include <stdexcept>
#include <utility>
#include <variant>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/rounded.hpp"
#include "gqa/core/shape.hpp"

namespace gqa {

/// YaRN, "NTK-by-parts" (Peng et al. 2023). A pair that turns more than `beta_fast` times within
/// `original_context` keeps its frequency, one that turns less than `beta_slow` times is divided by
/// `factor`, the ones between are blended linearly in the pair's number.
struct YarnScaling {
  double factor;           ///< new context / original context
  Index original_context;  ///< tokens the model was trained on
  double beta_fast = 32;
  double beta_slow = 1;
  /// Multiplies cos and sin; 0.1 ln(factor) + 1 (or 1 where factor <= 1) unless given. DeepSeek's pair of
  /// constants is yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim).
  std::optional<double> attention_factor = std::nullopt;
  /// Whether the blend begins and ends at whole pairs, as published; gpt-oss says false.
  bool truncate = true;
};

/// Llama 3.1. With `t` the turns a pair makes within `original_context`: t > high_freq_factor keeps its
/// frequency, t < low_freq_factor is divided by `factor`, between them the two are blended linearly in t.
struct Llama3Scaling {
  double factor;
  double low_freq_factor;
  double high_freq_factor;
  Index original_context;
};

/// `0.1 mscale ln(factor) + 1`, and 1 where factor <= 1: how much YaRN lengthens queries and keys.
inline double yarn_mscale(double factor, double mscale = 1) {
  return factor <= 1 ? 1 : detail::rounded(0.1 * mscale * std::log(factor)) + 1;
}

/// How the frequencies a model was trained with are changed to reach longer contexts. Constructed by name;
/// each constructor throws std::invalid_argument for a parameter that is not finite or not positive.
class RopeScaling {
 public:
  /// omega_i = theta^(-2i / rotary_dim), as trained.
  static RopeScaling none() { return RopeScaling(Divide{1}); }

  /// Position interpolation (Chen et al. 2023): omega_i / factor, the same as dividing positions.
  static RopeScaling linear(double factor) {
    check_positive("linear", "factor", factor);
    return RopeScaling(Divide{factor});
  }

  /// NTK-aware, with a fixed alpha: theta becomes theta * alpha^(d / (d - 2)), d = rotary_dim, so that the
  /// slowest pair is divided by alpha and the fastest kept.
  static RopeScaling ntk(double alpha) {
    check_positive("ntk", "alpha", alpha);
    return RopeScaling(Ntk{alpha});
  }

  static RopeScaling yarn(const YarnScaling& p) {
    check_positive("yarn", "factor", p.factor);
    check_positive("yarn", "original_context", static_cast<double>(p.original_context));
    check_positive("yarn", "beta_slow", p.beta_slow);
    check_positive("yarn", "beta_fast", p.beta_fast);
    GQA_CHECK(p.beta_fast > p.beta_slow, std::invalid_argument,
              "yarn: beta_fast is " << p.beta_fast << ", expected more than beta_slow = " << p.beta_slow);
    if (p.attention_factor) check_positive("yarn", "attention_factor", *p.attention_factor);
    return RopeScaling(p);
  }

  static RopeScaling llama3(const Llama3Scaling& p) {
    check_positive("llama3", "factor", p.factor);
    check_positive("llama3", "low_freq_factor", p.low_freq_factor);
    check_positive("llama3", "high_freq_factor", p.high_freq_factor);
    check_positive("llama3", "original_context", static_cast<double>(p.original_context));
    GQA_CHECK(p.high_freq_factor > p.low_freq_factor, std::invalid_argument,
              "llama3: high_freq_factor is "
                  << p.high_freq_factor << ", expected more than low_freq_factor = " << p.low_freq_factor);
    return RopeScaling(p);
  }

  /// omega_i / factors[i], one factor a pair: the tensor `rope_freqs.weight` of a GGUF file, or LongRoPE's
  /// factors with the attention factor sqrt(1 + ln(s) / ln(original_context)).
  static RopeScaling factors(std::vector<double> factors, double attention_factor = 1) {
    for (std::size_t i = 0; i < factors.size(); ++i)
      GQA_CHECK(is_positive(factors[i]), std::invalid_argument,
                "factors: factor " << i << " is " << factors[i] << ", expected a positive number");
    check_positive("factors", "attention_factor", attention_factor);
    return RopeScaling(Factors{std::move(factors), attention_factor});
  }

  /// What multiplies cos and sin, hence each of q and k.
  double attention_factor() const {
    if (const auto* yarn = std::get_if<YarnScaling>(&method_))
      return yarn->attention_factor.value_or(yarn_mscale(yarn->factor));
    if (const auto* given = std::get_if<Factors>(&method_)) return given->attention_factor;
    return 1;
  }

  /// The angle per position of each of the rotary_dim / 2 pairs, fastest first. Throws std::invalid_argument
  /// where the scaling is not defined for this theta and rotary_dim.
  std::vector<double> inverse_frequencies(Index rotary_dim, double theta) const {
    GQA_CHECK(rotary_dim > 0 && rotary_dim % 2 == 0, std::invalid_argument,
              "rope: rotary_dim is " << rotary_dim << ", expected a positive even number");
    GQA_CHECK(is_positive(theta), std::invalid_argument,
              "rope: theta is " << theta << ", expected a positive number");
    return std::visit([&](const auto& method) { return scaled(method, rotary_dim, theta); }, method_);
  }

 private:
  struct Divide {
    double factor;
  };
  struct Ntk {
    double alpha;
  };
  struct Factors {
    std::vector<double> factors;
    double attention_factor;
  };
  using Method = std::variant<Divide, Ntk, YarnScaling, Llama3Scaling, Factors>;

  explicit RopeScaling(Method method) : method_(std::move(method)) {}

  static bool is_positive(double value) { return std::isfinite(value) && value > 0; }

  static void check_positive(const char* scaling, const char* name, double value) {
    GQA_CHECK(is_positive(value), std::invalid_argument,
              scaling << ": " << name << " is " << value << ", expected a positive number");
  }

  static std::vector<double> trained(Index rotary_dim, double theta) {
    std::vector<double> inverse(static_cast<std::size_t>(rotary_dim / 2));
    for (std::size_t i = 0; i < inverse.size(); ++i)
      inverse[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
    return inverse;
  }

  static std::vector<double> scaled(const Divide& p, Index rotary_dim, double theta) {
    std::vector<double> inverse = trained(rotary_dim, theta);
    for (double& omega : inverse) omega /= p.factor;
    return inverse;
  }

  static std::vector<double> scaled(const Ntk& p, Index rotary_dim, double theta) {
    GQA_CHECK(rotary_dim > 2, std::invalid_argument,
              "ntk: rotary_dim is " << rotary_dim << ", expected more than 2");
    const double d = static_cast<double>(rotary_dim);
    const double base = theta * std::pow(p.alpha, d / (d - 2));
    GQA_CHECK(is_positive(base), std::invalid_argument,
              "ntk: alpha is " << p.alpha << ", which makes theta = " << theta << " become " << base);
    return trained(rotary_dim, base);
  }

  static std::vector<double> scaled(const YarnScaling& p, Index rotary_dim, double theta) {
    GQA_CHECK(theta > 1, std::invalid_argument, "yarn: theta is " << theta << ", expected more than 1");
    const double d = static_cast<double>(rotary_dim);
    // Pair i turns t = context theta^(-2i / d) / (2 pi) times within the context; solved for i:
    const auto pair_that_turns = [&](double t) {
      const double context = static_cast<double>(p.original_context);
      return d * std::log(context / (2 * std::numbers::pi * t)) / (2 * std::log(theta));
    };
    double first = pair_that_turns(p.beta_fast), last = pair_that_turns(p.beta_slow);
    if (p.truncate) {
      first = std::floor(first);
      last = std::ceil(last);
    }
    // The published bounds: the upper one is d - 1 although only d / 2 pairs exist. A blend of no width is a
    // step.
    first = std::max(first, 0.0);
    last = std::min(last, d - 1);
    const double width = std::max(last - first, 0.001);
    std::vector<double> inverse = trained(rotary_dim, theta);
    for (std::size_t i = 0; i < inverse.size(); ++i) {
      const double divided = std::clamp((static_cast<double>(i) - first) / width, 0.0, 1.0);
      inverse[i] *= (1 - divided) + divided / p.factor;
    }
    return inverse;
  }

  static std::vector<double> scaled(const Llama3Scaling& p, Index rotary_dim, double theta) {
    std::vector<double> inverse = trained(rotary_dim, theta);
    for (double& omega : inverse) {
      const double turns = static_cast<double>(p.original_context) * omega / (2 * std::numbers::pi);
      const double kept =
          std::clamp((turns - p.low_freq_factor) / (p.high_freq_factor - p.low_freq_factor), 0.0, 1.0);
      omega *= kept + (1 - kept) / p.factor;
    }
    return inverse;
  }

  static std::vector<double> scaled(const Factors& p, Index rotary_dim, double theta) {
    std::vector<double> inverse = trained(rotary_dim, theta);
    GQA_CHECK(p.factors.size() == inverse.size(), std::invalid_argument,
              "factors: size is " << p.factors.size() << ", expected rotary_dim / 2 = " << inverse.size());
    for (std::size_t i = 0; i < inverse.size(); ++i) inverse[i] /= p.factors[i];
    return inverse;
  }

  Method method_;
};

}  // namespace gqa
