// IEEE half precision as storage: a vector of floats from memory, a float to memory.
#pragma once

#include <cstdint>

#include "vec.h"

#if defined(__F16C__) && MVGPT_VECTOR_BYTES == 32
#include <immintrin.h>
#elif defined(__ARM_NEON) && MVGPT_VECTOR_BYTES == 16
#include <arm_neon.h>
#endif

namespace {

using Half = uint16_t;

// The bits of kLanes halves, each in the low part of its lane.
inline Bits load_bits(const Half* p) {
  Bits x{};
  for (int64_t i = 0; i < kLanes; ++i) x[i] = p[i];
  return x;
}

// Exact for every value, denormals and infinity included; a NaN stays one.
inline Vec widen(Bits half) {
  // The exponent's bias grows by 112: a multiplication normalises denormals, infinity and NaN need theirs set.
  const Bits magnitude = (half & 0x7FFFu) << 13;
  const Bits finite = as_bits(as_float(magnitude) * 0x1p112f);
  const Bits wide = magnitude >= (0x7C00u << 13) ? magnitude | 0x7F800000u : finite;
  return as_float(wide | (half & 0x8000u) << 16);
}

inline Vec load(const Half* p) {
#if defined(MVGPT_AVX512)
  // Every lane by mask: GCC 12 warns inside the plain form.
  return _mm512_maskz_cvtph_ps(0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && MVGPT_VECTOR_BYTES == 32
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__ARM_NEON) && MVGPT_VECTOR_BYTES == 16
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
  return widen(load_bits(p));
#endif
}

// Round to nearest, ties to even; beyond 65504 infinity; a NaN stays one.
inline Half to_half(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<Half>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<Half>(sign | 0x7C00u);
  if (magnitude < 0x38800000u) {  // denormal: adding 1/2 leaves the mantissa in units of 2^-24, rounded
    const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
    return static_cast<Half>(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x3F000000u));
  }
  return static_cast<Half>(sign | (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13);
}

}  // namespace
