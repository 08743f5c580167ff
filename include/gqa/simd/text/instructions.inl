// SPDX-License-Identifier: Apache-2.0
// What the vector types cannot say, an instruction each, and its generic twin where it has one. In assembly,
// as <immintrin.h> takes an eighth of the time that a file with one call of attention takes to compile.
// Included once per instruction set.

#if GQA_SIMD_LEVEL >= 1
// In both of the dialects that a file may be compiled in, with the result first here.
#define GQA_ASM_1(name, zero, one) "{" name " " one ", " zero "|" name " " zero ", " one "}"
#define GQA_ASM_2(name, zero, one, two) \
  "{" name " " two ", " one ", " zero "|" name " " zero ", " one ", " two "}"
#define GQA_ASM_1_BY(name, zero, one, number) \
  "{" name " $" number ", " one ", " zero "|" name " " zero ", " one ", " number "}"
#define GQA_ASM_2_BY(name, zero, one, two, number) \
  "{" name " $" number ", " two ", " one ", " zero "|" name " " zero ", " one ", " two ", " number "}"
// The 16 vector registers of AVX2, or the 32 of AVX-512.
#if GQA_SIMD_LEVEL >= 2
#define GQA_REGISTER "v"
#else
#define GQA_REGISTER "x"
#endif

#endif

/// a > b ? a : b a lane: b where either is NaN.
GQA_INLINE F32 max_of(F32 a, F32 b) {
#if GQA_SIMD_LEVEL >= 1
  asm(GQA_ASM_2("vmaxps", "%0", "%1", "%2") : "=" GQA_REGISTER(a) : GQA_REGISTER(a), GQA_REGISTER(b));
  return a;
#else
  return a > b ? a : b;
#endif
}
GQA_INLINE F64 max_of(F64 a, F64 b) {
#if GQA_SIMD_LEVEL >= 1
  asm(GQA_ASM_2("vmaxpd", "%0", "%1", "%2") : "=" GQA_REGISTER(a) : GQA_REGISTER(a), GQA_REGISTER(b));
  return a;
#else
  return a > b ? a : b;
#endif
}

/// c + a * b, rounded once where the set has FMA, whatever the command line tunes for: GCC takes a sum that a
/// loop carries apart for some processors (AMD's), unless the loop has several of them.
GQA_INLINE F32 multiply_add(F32 a, F32 b, F32 c) {
#if GQA_SIMD_LEVEL >= 1
  asm(GQA_ASM_2("vfmadd231ps", "%0", "%1", "%2") : "+" GQA_REGISTER(c) : GQA_REGISTER(a), GQA_REGISTER(b));
  return c;
#else
  return c + a * b;
#endif
}
GQA_INLINE F64 multiply_add(F64 a, F64 b, F64 c) {
#if GQA_SIMD_LEVEL >= 1
  asm(GQA_ASM_2("vfmadd231pd", "%0", "%1", "%2") : "+" GQA_REGISTER(c) : GQA_REGISTER(a), GQA_REGISTER(b));
  return c;
#else
  return c + a * b;
#endif
}

#if GQA_SIMD_LEVEL >= 1
/// f16 in memory as f32: from there, as some processors widen a register in two steps. Address sanitizers do
/// not see what assembly reads.
GQA_INLINE F32 widen_halves(const void* p) {
  F32 y;
#ifdef GQA_ADDRESS_SANITIZER
  asm(GQA_ASM_1("vcvtph2ps", "%0", "%1") : "=" GQA_REGISTER(y) : GQA_REGISTER(load_vec<U16>(p)));
#else
  using Halves = unsigned short __attribute__((vector_size(sizeof(U16)), aligned(2), may_alias));
  asm(GQA_ASM_1("vcvtph2ps", "%0", "%1") : "=" GQA_REGISTER(y) : "m"(*static_cast<const Halves*>(p)));
#endif
  return y;
}
/// And back, to the nearest, ties to even.
GQA_INLINE U16 narrow_to_halves(F32 x) {
  U16 y;
  asm(GQA_ASM_1_BY("vcvtps2ph", "%0", "%1", "8") : "=" GQA_REGISTER(y) : GQA_REGISTER(x));
  return y;
}
#endif

#if GQA_SIMD_LEVEL >= 2
/// b > a ? a : b a lane: b where either is NaN.
GQA_INLINE F32 min_of(F32 a, F32 b) {
  F32 c;
  asm(GQA_ASM_2("vminps", "%0", "%1", "%2") : "=v"(c) : "v"(a), "v"(b));
  return c;
}
GQA_INLINE F64 min_of(F64 a, F64 b) {
  F64 c;
  asm(GQA_ASM_2("vminpd", "%0", "%1", "%2") : "=v"(c) : "v"(a), "v"(b));
  return c;
}

/// The nearest integers, ties to even.
GQA_INLINE F32 rounded_to_integers(F32 x) {
  F32 y;
  asm(GQA_ASM_1_BY("vrndscaleps", "%0", "%1", "8") : "=v"(y) : "v"(x));
  return y;
}
GQA_INLINE F64 rounded_to_integers(F64 x) {
  F64 y;
  asm(GQA_ASM_1_BY("vrndscalepd", "%0", "%1", "8") : "=v"(y) : "v"(x));
  return y;
}

/// A bit a lane where a is not less than b: also where either is NaN.
GQA_INLINE unsigned short not_less(F32 a, F32 b) {
  unsigned short lanes;
  asm(GQA_ASM_2_BY("vcmpps", "%0", "%1", "%2", "21") : "=Yk"(lanes) : "v"(a), "v"(b));
  return lanes;
}
GQA_INLINE unsigned char not_less(F64 a, F64 b) {
  unsigned char lanes;
  asm(GQA_ASM_2_BY("vcmppd", "%0", "%1", "%2", "21") : "=Yk"(lanes) : "v"(a), "v"(b));
  return lanes;
}

/// x * 2^n in those lanes, rounded once, and 0 in the others.
GQA_INLINE F32 scaled_by_powers(unsigned short lanes, F32 x, F32 n) {
  F32 y;
  asm(GQA_ASM_2("vscalefps", "%0%{%3%}%{z%}", "%1", "%2") : "=v"(y) : "v"(x), "v"(n), "Yk"(lanes));
  return y;
}
GQA_INLINE F64 scaled_by_powers(unsigned char lanes, F64 x, F64 n) {
  F64 y;
  asm(GQA_ASM_2("vscalefpd", "%0%{%3%}%{z%}", "%1", "%2") : "=v"(y) : "v"(x), "v"(n), "Yk"(lanes));
  return y;
}
#endif

#if GQA_SIMD_LEVEL >= 3
/// c plus both products of a pair of bfloat16, a lane.
GQA_INLINE F32 add_dot(I32 a, F32 b, F32 c) {
  asm(GQA_ASM_2("vdpbf16ps", "%0", "%1", "%2") : "+v"(c) : "v"(a), "v"(b));
  return c;
}
#endif

#if GQA_SIMD_LEVEL >= 4
// Tiles are named by their numbers: compilers give out none by themselves.
template <class Config>
GQA_INLINE void load_tile_config(const Config& config) {
  static_assert(sizeof config == 64);
  asm volatile("ldtilecfg %0" : : "m"(config));
}
GQA_INLINE void release_tiles() { asm volatile("tilerelease"); }
template <int Tile>
GQA_INLINE void zero_tile() {
  asm volatile("tilezero {%%tmm%c0|tmm%c0}" : : "i"(Tile));
}
template <int Tile>
GQA_INLINE void load_tile(const void* p, Index row_bytes) {
  asm volatile("tileloadd {(%0,%1,1), %%tmm%c2|tmm%c2, [%0+%1*1]}" : : "r"(p), "r"(row_bytes), "i"(Tile));
}
template <int Tile>
GQA_INLINE void store_tile(void* p, Index row_bytes) {
  asm volatile("tilestored {%%tmm%c2, (%0,%1,1)|[%0+%1*1], tmm%c2}"
               :
               : "r"(p), "r"(row_bytes), "i"(Tile)
               : "memory");
}
/// Sums += A * B.
template <int Sums, int A, int B>
GQA_INLINE void multiply_tiles() {
  asm volatile("tdpbf16ps {%%tmm%c2, %%tmm%c1, %%tmm%c0|tmm%c0, tmm%c1, tmm%c2}"
               :
               : "i"(Sums), "i"(A), "i"(B));
}
#endif

#undef GQA_ASM_1
#undef GQA_ASM_2
#undef GQA_ASM_1_BY
#undef GQA_ASM_2_BY
#undef GQA_REGISTER
