// SPDX-License-Identifier: Apache-2.0
// 2^x for whole vectors: at most 2 ulp over the whole range (subnormal results included), exactly 0 at -inf
// and exactly 1 at 0; a NaN stays a NaN. Included once per instruction set.

// 2^f on [-1/2, 1/2], relative error minimised with the constant term fixed at 1 (Sollya's fpminimax):
// degree 6, 0x1.f4p-29 for float; degree 11, 0x1.a8p-58 for double.
GQA_INLINE F32 exp2_fraction(F32 f) {
  F32 p = splat(0x1.3fa208p-13f);
  p = p * f + 0x1.5f0b82p-10f;
  p = p * f + 0x1.3b30ap-7f;
  p = p * f + 0x1.c6af76p-5f;
  p = p * f + 0x1.ebfbd8p-3f;
  p = p * f + 0x1.62e43p-1f;
  return p * f + 1.0f;
}
GQA_INLINE F64 exp2_fraction(F64 f) {
  F64 p = splat(0x1.e973178f84e2dp-32);
  p = p * f + 0x1.e61d4332c8c78p-28;
  p = p * f + 0x1.b52522bc19eeep-24;
  p = p * f + 0x1.62bfc6596b95ap-20;
  p = p * f + 0x1.ffcbfc6685efdp-17;
  p = p * f + 0x1.4309130f6cbdcp-13;
  p = p * f + 0x1.5d87fe789e96fp-10;
  p = p * f + 0x1.3b2ab6fb9fda6p-7;
  p = p * f + 0x1.c6b08d704a12cp-5;
  p = p * f + 0x1.ebfbdff82c5a6p-3;
  p = p * f + 0x1.62e42fefa39efp-1;
  return p * f + 1.0;
}

/// Constants of a float format: 1.5 * 2^mantissa rounds to integers when added; outside [low, high] results
/// are 0 or inf. A weight below 2^tiny counts for nothing beside one of 1, but its products with values and
/// their sums would be subnormal, which costs a hundred cycles each.
template <class Acc>
struct Exp2Constants;
template <>
struct Exp2Constants<float> {
  static constexpr float round = 0x1.8p23f, low = -150.0f, high = 129.0f, tiny = -100.0f;
  static constexpr int bias = 127, mantissa = 23;
};
template <>
struct Exp2Constants<double> {
  static constexpr double round = 0x1.8p52, low = -1075.0, high = 1025.0, tiny = -900.0;
  static constexpr int bias = 1023, mantissa = 52;
};

/// log2(e): e^x = 2^(x log2_e).
template <class Acc>
inline constexpr Acc log2_e = static_cast<Acc>(0x1.71547652b82fep0);

/// The generic twin: 2^n in two halves, so that neither overflows and a subnormal result is rounded only
/// once.
template <class Acc, bool Weight = false>
GQA_INLINE Vec<Acc> exp2_generic(Vec<Acc> x) {
  using C = Exp2Constants<Acc>;
  using Int = typename VecOf<Acc>::Int;
  // Comparisons are written so that a NaN, for which every one fails, passes. A product that underflows costs
  // a hundred cycles, and masked scores are all -inf: what is 0 anyway is computed as 2^0 and cleared.
  const auto nothing = x < (Weight ? C::tiny : C::low);
  x = nothing ? Vec<Acc>{} : x;
  x = x > C::high ? splat<Acc>(C::high) : x;
  const Vec<Acc> shifted = x + C::round;
  const Vec<Acc> whole = shifted - C::round;
  const Int n = bits_as<Int>(shifted) - bits_as<Int>(splat<Acc>(C::round));
  const Int n1 = n >> 1, n2 = n - n1;
  const Vec<Acc> p = exp2_fraction(x - whole);
  const Vec<Acc> result =
      p * bits_as<Vec<Acc>>((n1 + C::bias) << C::mantissa) * bits_as<Vec<Acc>>((n2 + C::bias) << C::mantissa);
  return nothing ? Vec<Acc>{} : result;
}

/// With Weight, 0 below 2^tiny, and for x <= 1 or NaN only.
template <class Acc, bool Weight = false>
GQA_INLINE Vec<Acc> exp2_vec(Vec<Acc> x) {
#if GQA_SIMD_LEVEL >= 2
  // The scaling rounds once and overflows to infinity by itself; its zeroing mask spares lanes that are 0
  // anyway the hundred cycles of an underflow. min(high, x) is x, and not less than low, where x is NaN.
  using C = Exp2Constants<Acc>;
  constexpr Acc low = Weight ? C::tiny : C::low;
  const Vec<Acc> v = Weight ? x : min_of(splat<Acc>(C::high), x);
  const auto something = not_less(v, splat<Acc>(low));
  const Vec<Acc> whole = rounded_to_integers(v);
  return scaled_by_powers(something, exp2_fraction(v - whole), whole);
#else
  return exp2_generic<Acc, Weight>(x);
#endif
}
