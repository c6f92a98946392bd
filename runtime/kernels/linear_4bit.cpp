// One pass over the table per row of x, which is what decoding costs; integer sums within a group are exact.
#include "linear_4bit.h"

#include "half.h"
#include "vec.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mvgpt {
inline namespace MVGPT_COPY {
namespace {

constexpr int64_t kBlock = 64;  // outputs that a thread takes at a time

// x in 8 bits, even and odd elements apart as a byte of the table holds them.
struct Row {
  alignas(32) int8_t even[kMaxWidth4bit / 2], odd[kMaxWidth4bit / 2];
  // 8 times the sum of the two even and the two odd elements that one 16-bit lane adds up: nibbles are 8 too large.
  alignas(32) int16_t offset[kMaxWidth4bit / 4];
  float scale;
};

void round_row(const float* x, int64_t width, Row& row) {
  float most = 0;
  bool finite = true;
  for (int64_t i = 0; i < width; ++i) {
    const float size = __builtin_fabsf(x[i]);
    finite = finite && size <= 3.4028235e38f;
    most = size > most ? size : most;
  }
  // What is not finite must not vanish in an integer: the scale carries it to every output.
  row.scale = finite ? most / 127 : __builtin_nanf("");
  const float inverse = finite && most > 0 ? 127 / most : 0;
  for (int64_t i = 0; i < width; i += 4) {
    int32_t rounded[4];
    for (int64_t j = 0; j < 4; ++j) {
      rounded[j] = finite ? static_cast<int32_t>(__builtin_nearbyintf(x[i + j] * inverse)) : 0;
      int8_t* const half = j % 2 ? row.odd : row.even;
      half[(i + j) / 2] = static_cast<int8_t>(rounded[j]);
    }
    row.offset[i / 4] = static_cast<int16_t>(8 * (rounded[0] + rounded[1] + rounded[2] + rounded[3]));
  }
}

// Sum over units of the scale of a unit's group times the unit's integer sum.
#if defined(__AVX2__) && MVGPT_VECTOR_BYTES >= 32
template <int64_t units_of_group>
float dot(const uint8_t* table, const Row& row, const float* scales, int64_t width) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 sum = _mm256_setzero_ps();
  for (int64_t i = 0; i < width / 2; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table + i));
    const __m256i even = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low), odd = _mm256_and_si256(bytes, low);
    const __m256i x_even = _mm256_load_si256(reinterpret_cast<const __m256i*>(row.even + i));
    const __m256i x_odd = _mm256_load_si256(reinterpret_cast<const __m256i*>(row.odd + i));
    // At most 4 · 15 · 127 in 16 bits, then 4 · 8 · 127.
    const __m256i sums = _mm256_add_epi16(_mm256_maddubs_epi16(even, x_even), _mm256_maddubs_epi16(odd, x_odd));
    const __m256i offset = _mm256_load_si256(reinterpret_cast<const __m256i*>(row.offset + i / 2));
    const __m256i pairs = _mm256_sub_epi16(sums, offset);
    const __m256 parts = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
    if constexpr (units_of_group == 1) {  // one group in the lower half, the next in the upper
      const __m256 lower = _mm256_broadcast_ss(scales + i / 16), upper = _mm256_broadcast_ss(scales + i / 16 + 1);
      sum = _mm256_fmadd_ps(parts, _mm256_blend_ps(lower, upper, 0xF0), sum);
    } else {
      sum = _mm256_fmadd_ps(parts, _mm256_broadcast_ss(scales + i / 16 / units_of_group), sum);
    }
  }
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
  const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(quarter) + _mm_cvtss_f32(_mm_movehdup_ps(quarter));
}
#else
template <int64_t units_of_group>
float dot(const uint8_t* table, const Row& row, const float* scales, int64_t width) {
  float sum = 0;
  for (int64_t unit = 0; unit < width / kGroupUnit; ++unit) {
    const int64_t first = unit * kGroupUnit / 2;
    int32_t part = 0;
    for (int64_t i = first; i < first + kGroupUnit / 2; ++i) {
      part += ((table[i] >> 4) - 8) * row.even[i] + ((table[i] & 15) - 8) * row.odd[i];
    }
    sum += scales[unit / units_of_group] * static_cast<float>(part);
  }
  return sum;
}
#endif

struct Call {
  const Linear4bit& linear;
  const Row& row;
  float* out;
};

template <int64_t units_of_group>
void dot_range(const void* arguments, int64_t begin, int64_t end) {
  const Call& call = *static_cast<const Call*>(arguments);
  const Linear4bit& t = call.linear;
  const int64_t groups = t.width / t.group;
  float scales[kMaxWidth4bit / kGroupUnit + kLanes] = {};
  for (int64_t i = begin * kBlock; i < end * kBlock && i < t.outputs; ++i) {
    const Half* const stored = t.scales + i * groups;
    int64_t group = 0;
    for (; group + kLanes <= groups; group += kLanes) store(scales + group, load(stored + group));
    if (group < groups && groups >= kLanes) {  // the last whole vector, part of it once more
      store(scales + groups - kLanes, load(stored + groups - kLanes));
      group = groups;
    }
    for (; group < groups; ++group) scales[group] = widen(Bits{} + uint32_t{stored[group]})[0];
    call.out[i] = dot<units_of_group>(t.table + i * t.width / 2, call.row, scales, t.width) * call.row.scale;
  }
}

}  // namespace

void linear_4bit(const Linear4bit& linear, ParallelFor parallel_for) {
  const Range range = linear.group == 32 ? dot_range<1> : linear.group == 64 ? dot_range<2> : dot_range<4>;
  for (int64_t r = 0; r < linear.rows; ++r) {
    Row row;
    round_row(linear.x + r * linear.width, linear.width, row);
    const Call call{linear, row, linear.out + r * linear.outputs};
    parallel_for((linear.outputs + kBlock - 1) / kBlock, range, &call);
  }
}

}  // namespace MVGPT_COPY
}  // namespace mvgpt
