// Vectors of floats and the functions of the kernels: one source for AVX-512, AVX2, NEON and scalar machines, by the
// vector extensions that GCC and Clang share.
#pragma once

#include <cstdint>

#ifndef MVGPT_VECTOR_BYTES
#if defined(__AVX512F__)
#define MVGPT_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define MVGPT_VECTOR_BYTES 32
#elif defined(__ARM_NEON) || defined(__SSE2__)
#define MVGPT_VECTOR_BYTES 16
#else
#define MVGPT_VECTOR_BYTES 4
#endif
#endif

#if defined(__AVX512F__) && MVGPT_VECTOR_BYTES == 64
#include <immintrin.h>
#define MVGPT_AVX512
#endif

// Internal linkage: a program may hold this header compiled for several instruction sets.
namespace {

typedef float Vec __attribute__((vector_size(MVGPT_VECTOR_BYTES)));
typedef uint32_t Bits __attribute__((vector_size(MVGPT_VECTOR_BYTES)));
// Memory is only float-aligned. A typedef, because memcpy keeps the compiler from folding loads into arithmetic.
typedef Vec VecInMemory __attribute__((may_alias, aligned(4)));

constexpr int64_t kLanes = MVGPT_VECTOR_BYTES / sizeof(float);

inline Vec splat(float x) { return x - Vec{}; }  // + would turn -0 to 0, an instruction more
inline Vec load(const float* p) { return *reinterpret_cast<const VecInMemory*>(p); }
inline void store(float* p, Vec x) { *reinterpret_cast<VecInMemory*>(p) = x; }

// The first n lanes; the rest are zero.
inline Vec load(const float* p, int64_t n) {
  if (n >= kLanes) return load(p);
  Vec x{};
  for (int64_t i = 0; i < n; ++i) x[i] = p[i];
  return x;
}

inline void store(float* p, Vec x, int64_t n) {
  if (n >= kLanes) return store(p, x);
  for (int64_t i = 0; i < n; ++i) p[i] = x[i];
}

// A NaN in x stays: each comparison with it is false.
inline Vec at_least(Vec low, Vec x) { return low > x ? low : x; }
inline Vec at_most(Vec high, Vec x) { return high < x ? high : x; }

inline Vec as_float(Bits x) { return reinterpret_cast<Vec>(x); }
inline Bits as_bits(Vec x) { return reinterpret_cast<Bits>(x); }

constexpr float kLog2e = 1.44269504f;

// Adding 1.5 · 2^23 rounds to an integer, which then stands in the low bits.
constexpr float kRound = 12582912.0f;

// 2^f for |f| <= 1/2, within 2e-9 before rounding. 1 + f·q(f), so that near 0 the distance to 1 is relatively exact
// too: a slow decay forgets by that distance, and its error would add up over hundreds of steps.
inline Vec exp2_fraction(Vec f) {
  Vec q = splat(0.000153533617f);
  q = q * f + 0.00133988749f;
  q = q * f + 0.00961843736f;
  q = q * f + 0.0555033247f;
  q = q * f + 0.240226479f;
  q = q * f + 0.693147203f;
  return q * f + 1.0f;
}

constexpr float kLeastExponent = -126.0f;

// 2^x for kLeastExponent <= x <= 0: the cheapest form, for the inner loop. A NaN with a payload may get lost, so the
// caller sees to NaNs.
#ifdef MVGPT_AVX512
// 2^x = 2^(n/16) · 2^f with |f| <= 1/32: the sixteenths come from a register, and f needs a third of the polynomial.
// The bits of 2^(i/16), less what n << 19 adds to the mantissa: the whole part of n/16 then lands in the exponent.
constexpr uint32_t kSixteenths[16] = {
    0x3f800000u, 0x3f7daac3u, 0x3f7b95c2u, 0x3f79c3d3u, 0x3f7837f0u, 0x3f76f532u, 0x3f75fed7u, 0x3f75583fu,
    0x3f7504f3u, 0x3f7508a4u, 0x3f75672au, 0x3f76248cu, 0x3f7744fdu, 0x3f78ccdfu, 0x3f7ac0c7u, 0x3f7d257du,
};

inline Vec exp2_decay(Vec x) {
  constexpr float round = kRound / 16;
  const Vec rounded = x + round;
  const Vec f = x - (rounded - round);
  const __m512i table = _mm512_loadu_si512(kSixteenths);
  // Every lane by mask: GCC 12 warns inside the plain form.
  const __m512i part = _mm512_maskz_permutexvar_epi32(0xFFFF, reinterpret_cast<__m512i>(rounded), table);
  const Vec power = as_float(reinterpret_cast<Bits>(part) + (as_bits(rounded) << 19));
  // As in exp2_fraction, 1 + f·q(f); q within 1.1e-7 of itself.
  Vec q = splat(0.0555054f);
  q = q * f + 0.24023355f;
  q = q * f + 0.69314718f;
  return power * f * q + power;
}
#else
inline Vec exp2_decay(Vec x) {
  const Vec rounded = x + kRound;
  const Vec p = exp2_fraction(x - (rounded - kRound));
  return as_float(as_bits(p) + (as_bits(rounded) << 23));
}
#endif

// Brings any x <= 0 into that range: nothing that a decay multiplies is large enough to tell 2^-126 from 0.
inline Vec clamp_decay(Vec x) {
  // As unsigned integers negative floats are in reverse order, and integer minimum is one instruction everywhere.
  const Bits least = as_bits(splat(kLeastExponent));
  return as_float(as_bits(x) < least ? as_bits(x) : least);
}

// e^x everywhere: infinity, denormal results, 0, NaN.
inline Vec exp(Vec x) {
  x = at_least(splat(-104.0f), at_most(splat(89.0f), x));
  const Vec rounded = x * kLog2e + kRound;
  const Vec n = rounded - kRound;
  // ln 2 in two parts: n times the first is exact, so the remainder is good without fused multiply-add too.
  const Vec p = exp2_fraction(((x - n * 0.693359375f) + n * 2.12194440e-4f) * kLog2e);
  // 2^n in two factors: n reaches -151, more than one exponent holds.
  const Bits bias = Bits{} + 127u;
  const Bits whole = as_bits(rounded) - as_bits(splat(kRound));
  const Bits half = ((whole + 256u) >> 1) - 128u;
  return p * as_float((half + bias) << 23) * as_float((whole - half + bias) << 23);
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|): no overflow above, relatively exact below.
inline Vec softplus(Vec x) {
  const Vec e = exp(x > 0.0f ? -x : x);
  const Vec s = e / (2.0f + e);  // log1p(e) = 2 atanh(s), s <= 1/3
  const Vec w = s * s;
  const Vec series = (((0.281915443f * w + 0.27957667f) * w + 0.400251142f) * w + 0.666663102f) * w + 2.0f;
  return at_least(Vec{}, x) + s * series;
}

inline Vec silu(Vec x) { return x / (1.0f + exp(-x)); }

}  // namespace
