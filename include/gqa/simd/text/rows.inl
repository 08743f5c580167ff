// SPDX-License-Identifier: Apache-2.0
// What happens to whole rows between and after the products. Included once per instruction set.

/// All bits of the lanes whose column counts; `bits` holds one bit a lane, lowest first.
template <class Acc>
GQA_INLINE auto lane_mask(std::uint64_t bits) {
  using Bits = typename VecOf<Acc>::Bits;
  using Lane = typename VecOf<Acc>::Lane;
  Bits one;
#pragma GCC unroll 16
  for (int i = 0; i < lanes<Acc>; ++i) one[i] = Lane{1} << i;
  return (one & (Bits{} + static_cast<Lane>(bits))) != Bits{};
}

/// All lanes as one, always by the same tree: x[i] = f(x[i], x[i + width / 2]). In quarters of a register of
/// AVX-512, as GCC would take a whole one apart lane by lane.
template <class Acc, class F>
GQA_INLINE Acc combine_lanes(Vec<Acc> v, F f) {
  using Quarter = typename VecOf<Acc>::Quarter;
  constexpr int parts = GQA_SIMD_BYTES / 16, in_part = 16 / static_cast<int>(sizeof(Acc));
  Quarter part[parts];
  store_vec(part, v);
#pragma GCC unroll 4
  for (int width = parts / 2; width > 0; width /= 2)
#pragma GCC unroll 4
    for (int i = 0; i < width; ++i) part[i] = f(part[i], part[i + width]);
  Acc x[in_part];
  store_vec(x, part[0]);
#pragma GCC unroll 4
  for (int width = in_part / 2; width > 0; width /= 2)
#pragma GCC unroll 4
    for (int i = 0; i < width; ++i) x[i] = f(x[i], x[i + width]);
  return x[0];
}
template <class Acc>
GQA_INLINE Acc sum_lanes(Vec<Acc> v) {
  return combine_lanes<Acc>(
      v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}
template <class Acc>
GQA_INLINE Acc max_lanes(Vec<Acc> v) {
  return combine_lanes<Acc>(
      v, [](auto a, auto b) __attribute__((always_inline)) { return b > a ? b : a; });
}

/// The mask is applied first, so that the two passes below see -inf wherever nothing counts.
template <class Acc>
inline void apply_mask(Acc* row, Index columns, const std::uint64_t* mask) {
  constexpr int L = lanes<Acc>;
  const Vec<Acc> nothing = splat(-static_cast<Acc>(__builtin_inf()));
  for (Index tile = 0; tile < columns / tile_keys; ++tile) {
    if (mask[tile] == ~std::uint64_t{0}) continue;
    Acc* s = row + tile * tile_keys;
    for (int j = 0; j < tile_keys; j += L)
      store_vec(s + j, lane_mask<Acc>(mask[tile] >> j) ? load_vec<Vec<Acc>>(s + j) : nothing);
  }
}

template <class Acc>
GQA_INLINE Acc largest_of(const Acc* row, Index columns) {
  constexpr int L = lanes<Acc>;
  using V = Vec<Acc>;
  const V nothing = splat(-static_cast<Acc>(__builtin_inf()));
  // max_of(new, old) keeps old where new is NaN; the NaN comes back in the exponential.
  V top[4] = {nothing, nothing, nothing, nothing};
  for (Index j = 0; j < columns; j += 4 * L)
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) top[u] = max_of(load_vec<V>(row + j + u * L), top[u]);
  return max_lanes<Acc>(max_of(max_of(top[0], top[1]), max_of(top[2], top[3])));
}

/// row[j] = e^((row[j] - largest) * scale), or pairs of bfloat16 at its front, or row[j] * scale; max and sum
/// as in SoftmaxBlock.
template <class Acc>
GQA_INLINE void exponentials(const SoftmaxBlock<Acc>& block, Acc* row, Acc largest, Acc& max, Acc& total) {
  constexpr int L = lanes<Acc>;
  using V = Vec<Acc>;
  const Acc infinity = static_cast<Acc>(__builtin_inf());
  // Subtracted before anything is scaled: equal scores weigh exactly 1 however large they are, and the
  // distance of two is as exact as they are. A row of nothing subtracts 0: its exponentials are 2^-inf = 0,
  // or NaN from a NaN.
  const V origin = splat(largest == -infinity ? Acc{0} : largest);
  // A scale that overflows here would make NaN of a distance of 0.
  const Acc to_base_2 = block.scale * log2_e<Acc>;
  const V factor = splat(to_base_2 < infinity ? to_base_2 : block.scale);
  V sum[2] = {V{}, V{}};
  for (Index j = 0; j < block.columns; j += 2 * L) {
    V s[2], p[2];
#pragma GCC unroll 2
    for (int u = 0; u < 2; ++u) {
      // Beside a weight of 1, those too small to count are 0.
      s[u] = load_vec<V>(row + j + u * L);
      p[u] = exp2_vec<Acc, true>((s[u] - origin) * factor);
      sum[u] += p[u];
    }
    if (block.keep_scores) {
#pragma GCC unroll 2
      for (int u = 0; u < 2; ++u) store_vec(row + j + u * L, s[u] * block.scale);
      continue;
    }
    if constexpr (std::is_same_v<Acc, float>) {
      if (block.pack_pairs) {  // the write at 2 bytes an element never overtakes the read at 4
        auto* packed = reinterpret_cast<std::uint16_t*>(row) + j;
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) store_vec(packed + u * L, f32_to_bf16(p[u]));
        continue;
      }
    }
#pragma GCC unroll 2
    for (int u = 0; u < 2; ++u) store_vec(row + j + u * L, p[u]);
  }
  max = largest * block.scale;
  total = sum_lanes<Acc>(sum[0] + sum[1]);
}

template <class Acc>
void softmax(const SoftmaxBlock<Acc>& block) {
  // One row's maximum, and then its sum, are all latency at the end: two rows hide it for each other, and are
  // still in the first-level cache for their second pass.
  constexpr Index rows_at_once = 2;
  for (Index first = 0; first < block.rows; first += rows_at_once) {
    const Index end = first + rows_at_once < block.rows ? first + rows_at_once : block.rows;
    Acc largest[rows_at_once];
    for (Index r = first; r < end; ++r) {
      Acc* row = block.scores + r * block.stride;
      if (block.mask != nullptr)
        apply_mask(row, block.columns, block.mask + r / block.rows_per_mask * block.mask_stride);
      largest[r - first] = largest_of(row, block.columns);
    }
    for (Index r = first; r < end; ++r)
      exponentials(block, block.scores + r * block.stride, largest[r - first], block.max[r], block.sum[r]);
  }
}

template <class Acc>
void probabilities(const ProbabilityRow<Acc>& row) {
  using V = Vec<Acc>;
  constexpr int L = lanes<Acc>;
  const V inverse = splat(row.sum == Acc{0} ? Acc{0} : Acc{1} / row.sum);
  const V origin = splat(row.max == -static_cast<Acc>(__builtin_inf()) ? Acc{0} : row.max);
  const auto p = [&](V s) __attribute__((always_inline)) {
    const V e = exp2_vec<Acc>((s - origin) * log2_e<Acc>);
    return e == V{} ? V{} : e * inverse;
  };
  Index j = 0;
  for (; j + L <= row.columns; j += L) store_vec(row.p + j, p(load_vec<V>(row.scores + j)));
  if (j < row.columns)
    store_some(row.p + j, p(load_some<Acc>(row.scores + j, row.columns - j)), row.columns - j);
}

template <class Acc>
void gradient(const GradientBlock<Acc>& block) {
  using V = Vec<Acc>;
  constexpr int L = lanes<Acc>;
  const V scale = splat(block.scale);
  for (Index r = 0; r < block.rows; ++r) {
    Acc* s = block.scores + r * block.stride;
    Acc* d = block.d_scores + r * block.stride;
    const std::uint64_t* mask =
        block.mask == nullptr ? nullptr : block.mask + r / block.rows_per_mask * block.mask_stride;
    // A row of scores that are all -inf: none of them counts.
    const V lse = splat(block.lse[r] == -static_cast<Acc>(__builtin_inf()) ? Acc{0} : block.lse[r]);
    const V delta = splat(block.delta[r]);
    for (Index tile = 0; tile < block.columns / tile_keys; ++tile) {
      const std::uint64_t seen = mask == nullptr ? ~std::uint64_t{0} : mask[tile];
      for (Index j = tile * tile_keys; j < (tile + 1) * tile_keys; j += 2 * L) {
        V p[2], ds[2];
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) {
          p[u] = exp2_vec<Acc, true>((load_vec<V>(s + j + u * L) * scale - lse) * log2_e<Acc>);
          ds[u] = p[u] * (load_vec<V>(d + j + u * L) - delta);
        }
        if (seen != ~std::uint64_t{0}) {
#pragma GCC unroll 2
          for (int u = 0; u < 2; ++u) {
            const auto counts = lane_mask<Acc>(seen >> (j % tile_keys + u * L));
            p[u] = counts ? p[u] : V{};
            ds[u] = counts ? ds[u] : V{};
          }
        }
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) {
          store_vec(s + j + u * L, p[u]);
          store_vec(d + j + u * L, ds[u]);
        }
      }
    }
  }
}

template <class Acc>
Acc dot(const Acc* x, const Acc* y, Index n) {
  using V = Vec<Acc>;
  constexpr Index L = lanes<Acc>;
  V sum[2] = {V{}, V{}};
  Index i = 0;
  for (; i + 2 * L <= n; i += 2 * L)
#pragma GCC unroll 2
    for (int u = 0; u < 2; ++u) sum[u] += load_vec<V>(x + i + u * L) * load_vec<V>(y + i + u * L);
  for (int u = 0; i < n; i += L, ++u) {
    const Index count = n - i < L ? n - i : L;
    sum[u] += load_some<Acc>(x + i, count) * load_some<Acc>(y + i, count);
  }
  return sum_lanes<Acc>(sum[0] + sum[1]);
}

template <class Acc>
void merge(const MergeRows<Acc>& rows) {
  constexpr int L = lanes<Acc>;
  using V = Vec<Acc>;
  // The weights of a vector of rows at a time: one row's exponentials alone would be all latency.
  for (Index r = 0; r < rows.rows; r += L) {
    const Index count = rows.rows - r < L ? rows.rows - r : L;
    Acc max[L] = {}, block_max[L] = {}, sum[L] = {}, block_sum[L] = {}, own[L], other[L];
#pragma GCC unroll 1
    for (Index i = 0; i < count; ++i) {
      max[i] = rows.max[r + i];
      block_max[i] = rows.block_max[r + i];
      sum[i] = rows.sum[r + i];
      block_sum[i] = rows.block_sum[r + i];
    }
    const V m1 = load_vec<V>(max), m2 = load_vec<V>(block_max);
    const V m = m2 > m1 ? m2 : m1;
    // Equal maxima weigh exactly 1, -inf beside -inf too.
    const V w = exp2_vec<Acc>(((m2 > m1 ? m1 : m2) - m) * log2_e<Acc>);
    const V w1 = m1 == m ? splat(Acc{1}) : w, w2 = m2 == m ? splat(Acc{1}) : w;
    // One of the two weighs 1: only the other is multiplied, so that who merges whom shows in no bit.
    const V s1 = load_vec<V>(sum), s2 = load_vec<V>(block_sum);
    store_vec(sum, w1 == Acc{1} ? s2 * w2 + s1 : s1 * w1 + s2);
    store_vec(max, m);
    store_vec(own, w1);
    store_vec(other, w2);
#pragma GCC unroll 1
    for (Index i = 0; i < count; ++i) {
      rows.max[r + i] = max[i];
      rows.sum[r + i] = sum[i];
      Acc* o = rows.o + (r + i) * rows.stride;
      const Acc* block = rows.block_o + (r + i) * rows.block_stride;
      const bool keep = own[i] == Acc{1};
      const Acc* whole = keep ? o : block;
      const Acc* weighed = keep ? block : o;
      const Acc weight = keep ? other[i] : own[i];
      for (Index j = 0; j < rows.dim; j += L)
        store_vec(o + j, load_vec<V>(weighed + j) * weight + load_vec<V>(whole + j));
    }
  }
}

template <class Acc>
void exp2_array(const Acc* x, Acc* y, Index n) {
  constexpr Index L = lanes<Acc>;
  Index i = 0;
  for (; i + L <= n; i += L) store_vec(y + i, exp2_vec<Acc>(load_vec<Vec<Acc>>(x + i)));
  if (i < n) store_some(y + i, exp2_vec<Acc>(load_some<Acc>(x + i, n - i)), n - i);
}

/// 1 / x of normal positive numbers to 0x1p-23: three Newton steps, each of which squares the error, from the
/// bits' difference, which is within a twentieth. A division takes longer than all of tanh without it.
GQA_INLINE F32 reciprocal(F32 x) {
  F32 r = bits_as<F32>(U32{} + 0x7ef31000u - bits_as<U32>(x));
  for (int i = 0; i < 3; ++i) r = r + r * (1.0f - x * r);
  return r;
}

/// tanh x = x P(x^2) / Q(x^2), relative error minimised on [0, 9.02] (Lawson's iteration in 60 digits):
/// 0x1.7p-26, with the rounding of its 10 operations at most 4 epsilon. Beyond, tanh rounds to 1.
GQA_INLINE F32 tanh_vec(F32 x) {
  // max_of(a, b) is b, so the NaN, where b is one; -max_of(-a, -b) is the minimum alike.
  x = max_of(splat(-9.02f), x);
  x = -max_of(splat(-9.02f), -x);
  const F32 t = x * x;
  F32 p = splat(0x1.c98c3ap-27f);
  p = p * t + 0x1.594dd6p-16f;
  p = p * t + 0x1.c9f51ap-9f;
  p = p * t + 0x1.1203dap-3f;
  p = p * t + 1.0f;
  F32 q = splat(0x1.a0a9fap-21f);
  q = q * t + 0x1.583d68p-12f;
  q = q * t + 0x1.a7dda8p-6f;
  q = q * t + 0x1.de5736p-2f;
  q = q * t + 1.0f;
  const F32 y = max_of(splat(-1.0f), x * p * reciprocal(q));
  return -max_of(splat(-1.0f), -y);
}
/// Doubles are for references, not for speed.
GQA_INLINE F64 tanh_vec(F64 x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_tanh(x[i]);
  return x;
}

/// x = f(x, index of its first element), in whole vectors and one partial one.
template <class Acc, class F>
GQA_INLINE void update_row(Acc* x, Index n, F f) {
  constexpr Index L = lanes<Acc>;
  Index i = 0;
  for (; i + L <= n; i += L) store_vec(x + i, f(load_vec<Vec<Acc>>(x + i), i));
  if (i < n) store_some(x + i, f(load_some<Acc>(x + i, n - i), i), n - i);
}

template <class Acc>
void scale_row(Acc* x, Index n, Acc factor) {
  update_row(
      x, n, [=](Vec<Acc> v, Index) __attribute__((always_inline)) { return v * factor; });
}

template <class Acc>
void soft_cap_row(Acc* x, Index n, Acc cap) {
  const Acc inverse = 1 / cap;
  update_row(
      x, n, [=](Vec<Acc> v, Index) __attribute__((always_inline)) { return tanh_vec(v * inverse) * cap; });
}

template <class Acc>
void soft_cap_slope_row(const Acc* x, Acc* y, Index n, Acc cap) {
  constexpr Index L = lanes<Acc>;
  const Acc inverse = 1 / cap;
  update_row(
      y, n, [=](Vec<Acc> v, Index i) __attribute__((always_inline)) {
        const Vec<Acc> t =
            tanh_vec((i + L <= n ? load_vec<Vec<Acc>>(x + i) : load_some<Acc>(x + i, n - i)) * inverse);
        return v * ((Acc{1} - t) * (Acc{1} + t));
      });
}

template <class Acc>
void add_row(Acc* x, Index n, const Acc* y) {
  constexpr Index L = lanes<Acc>;
  update_row(
      x, n, [=](Vec<Acc> v, Index i) __attribute__((always_inline)) {
        return v + (i + L <= n ? load_vec<Vec<Acc>>(y + i) : load_some<Acc>(y + i, n - i));
      });
}

template <class Acc>
void subtract_distance_row(Acc* x, Index n, Acc origin, Acc slope) {
  Vec<Acc> lane;
#pragma GCC unroll 16
  for (int i = 0; i < lanes<Acc>; ++i) lane[i] = static_cast<Acc>(i);
  update_row(
      x, n, [=](Vec<Acc> v, Index i) __attribute__((always_inline)) {
        const Vec<Acc> d = lane + (static_cast<Acc>(i) - origin);
        return v - slope * (d < Acc{0} ? -d : d);
      });
}
