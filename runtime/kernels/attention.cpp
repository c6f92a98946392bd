// Flash attention (Dao et al. 2022): a block of query vectors walks the keys once with a running maximum and sum. All
// query heads of a key/value head are in the block, so a key or value is read from memory once for them. With few
// queries the keys are split into spans, whose results are merged afterwards (flash decoding).
#include "attention.h"

#include "half.h"
#include "vec.h"

namespace mvgpt {
inline namespace MVGPT_COPY {
namespace {

constexpr int64_t kVectors = 48;   // query vectors of a block
constexpr int64_t kKeys = 64;      // keys between two updates of the running maximum
constexpr int64_t kSpan = 256;     // keys of a span, where the keys are split
constexpr int64_t kFewItems = 16;  // below this many blocks the keys are split
constexpr int64_t kFewRows = 4;    // up to so many, waking threads takes longer than storing or merging rows
constexpr float kLowest = -__builtin_inff();

// Rows of a product at a time, by the number of registers, and the most that the last part may have.
constexpr int64_t kRows = kLanes == kKeyTile ? 12 : 6;
constexpr int64_t kMostRows = kRows + 2;

// C[R × kKeyTile] (+)= A[R × count] · B[count × kKeyTile], where A's element (r, k) is a[r * row + k * step]: constants,
// so that one register addresses all rows. Few enough rows for the registers take all columns at a time, others half of
// them. Any C keeps the order of sums over `count`.
template <int R, bool add, int64_t row, int64_t step, typename Element>
void product(const float* a, const Element* b, int64_t b_stride, int64_t count, float* c, int64_t c_stride) {
  constexpr int64_t kWide = R <= kRows || kLanes == kKeyTile ? kKeyTile : kKeyTile / 2;
  constexpr int64_t kVecs = kWide / kLanes;
  for (int64_t column = 0; column < kKeyTile; column += kWide) {
    Vec sum[R][kVecs];
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t v = 0; v < kVecs; ++v) sum[r][v] = add ? load(c + r * c_stride + column + v * kLanes) : Vec{};
    }
    for (int64_t k = 0; k < count; ++k) {
      Vec y[kVecs];
      for (int64_t v = 0; v < kVecs; ++v) y[v] = load(b + k * b_stride + column + v * kLanes);
      for (int64_t r = 0; r < R; ++r) {
        const Vec x = splat(a[r * row + k * step]);
        for (int64_t v = 0; v < kVecs; ++v) sum[r][v] += x * y[v];
      }
    }
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t v = 0; v < kVecs; ++v) store(c + r * c_stride + column + v * kLanes, sum[r][v]);
    }
  }
}

// The same for R or fewer rows.
template <int R, bool add, int64_t row, int64_t step, typename Element>
void product_of(int64_t rows, const float* a, const Element* b, int64_t b_stride, int64_t count, float* c,
                int64_t c_stride) {
  if constexpr (R > 0) {
    if (rows == R) return product<R, add, row, step>(a, b, b_stride, count, c, c_stride);
    product_of<R - 1, add, row, step>(rows, a, b, b_stride, count, c, c_stride);
  }
}

// The same for any number of rows.
template <bool add, int64_t row, int64_t step, typename Element>
void products(int64_t rows, const float* a, const Element* b, int64_t b_stride, int64_t count, float* c,
              int64_t c_stride) {
  for (int64_t r = 0; r < rows;) {
    const int64_t now = rows - r <= kMostRows ? rows - r : kRows;
    product_of<kMostRows, add, row, step>(now, a + r * row, b, b_stride, count, c + r * c_stride, c_stride);
    r += now;
  }
}

template <typename Element>
void store_element(Element* p, float x) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    *p = x;
  } else {
    *p = to_half(x);
  }
}

// x[head_dim] rotated to `position`, times `scale`; `stride` lies between elements of out.
template <typename Attention>
void rotate(const Attention& t, const float* x, int64_t position, float scale, float* out, int64_t stride) {
  const int64_t half = t.head_dim / 2;
  const float* const cos = t.cos + position * half;
  const float* const sin = t.sin + position * half;
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[i + half];
    out[i * stride] = (first * cos[i] - second * sin[i]) * scale;
    out[(i + half) * stride] = (second * cos[i] + first * sin[i]) * scale;
  }
}

// The new keys and values of the key/value heads [begin, end).
template <typename Element>
void store_range(const void* arguments, int64_t begin, int64_t end) {
  const auto& t = *static_cast<const GroupedQueryAttention<Element>*>(arguments);
  for (int64_t head = begin; head < end; ++head) {
    for (int64_t row = 0; row < t.rows; ++row) {
      const int64_t position = t.start + row;
      const float* const k = t.kv + (2 * row * t.kv_heads + head) * t.head_dim;
      const float* const v = k + t.kv_heads * t.head_dim;
      float rotated[kMaxHeadDim];
      rotate(t, k, position, 1, rotated, 1);
      const int64_t tile = head * t.max_context / kKeyTile + position / kKeyTile;
      Element* const k_out = t.k_cache + tile * t.head_dim * kKeyTile + position % kKeyTile;
      Element* const v_out = t.v_cache + (head * t.max_context + position) * t.head_dim;
      for (int64_t i = 0; i < t.head_dim; ++i) {
        store_element(k_out + i * kKeyTile, rotated[i]);
        store_element(v_out + i, v[i]);
      }
    }
  }
}

// Hardware foresees neither the two streams nor their strides: a decode step would wait for memory at every key.
// (Always inlined: GCC takes calls of a function that only prefetches for free of effects, and drops them.)
__attribute__((always_inline)) inline void prefetch(const void* begin, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(begin) + i, 0, 2);
}

// How a call is cut into pieces of work: a block of query vectors of a key/value head, over a span of keys.
struct Plan {
  int64_t group, vectors, blocks, end, spans, span;
  template <typename Attention>
  explicit Plan(const Attention& t)
      : group(t.heads / t.kv_heads),
        vectors(t.queries * group),
        blocks((vectors + kVectors - 1) / kVectors),
        end(t.start + t.rows) {
    const bool split = blocks * t.kv_heads < kFewItems;
    span = split ? kSpan : end;
    spans = (end + span - 1) / span;
  }
};

struct Work {
  float q[kMaxHeadDim * kVectors];  // a component of all vectors side by side
  float out[kVectors * kMaxHeadDim];
  float scores[kVectors * kKeys];
  float keys[kKeys * kMaxHeadDim], values[kKeys * kMaxHeadDim];  // widened, when many vectors use them
  Vec sum[kVectors];  // in parts
  float most[kVectors];
};

// Scores of one vector against the first `valid` of `keys` keys → weights, 0 for the rest; the running maximum and sum
// move on, and what has been summed up is scaled to the new maximum.
void soften(float* scores, int64_t valid, int64_t keys, float* most, Vec* sum, float* out, int64_t head_dim) {
  for (int64_t i = valid < 0 ? 0 : valid; i < keys; ++i) scores[i] = kLowest;
  if (valid > 0) {
    Vec high = splat(*most);
    for (int64_t i = 0; i < keys; i += kLanes) high = at_least(high, load(scores + i));
    float lanes[kLanes];
    store(lanes, high);
    for (int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (int64_t i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    }
    const float now = lanes[0];
    for (int64_t i = 0; i < keys; i += kLanes) {
      const Vec x = load(scores + i) - now;
      store(scores + i, exp2_decay(clamp_decay(x)) + 0.0f * x);  // the last term keeps a NaN
    }
    if (now != *most) {
      const Vec scale = exp2_decay(clamp_decay(splat(*most - now)));
      for (int64_t i = 0; i < head_dim; i += kLanes) store(out + i, load(out + i) * scale);
      *sum *= scale;
      *most = now;
    }
  }
  for (int64_t i = valid < 0 ? 0 : valid; i < keys; ++i) scores[i] = 0;
  for (int64_t i = 0; i < keys; i += kLanes) *sum += load(scores + i);
}

// One block over one span: t.q → w.out (not yet divided by w.sum).
template <typename Element>
void attend(const GroupedQueryAttention<Element>& t, const Plan& plan, int64_t head, int64_t block, int64_t span,
            Work& w) {
  const int64_t first = block * kVectors, d = t.head_dim;
  const int64_t vectors = plan.vectors - first < kVectors ? plan.vectors - first : kVectors;
  const auto position = [&](int64_t i) { return plan.end - t.queries + (first + i) / plan.group; };
  const float scale = kLog2e / __builtin_sqrtf(static_cast<float>(d));
  for (int64_t i = 0; i < vectors; ++i) {
    const int64_t query = (first + i) / plan.group, member = (first + i) % plan.group;
    const float* const q = t.q + (query * t.heads + head * plan.group + member) * d;
    rotate(t, q, position(i), scale, w.q + i, kVectors);
    for (int64_t j = 0; j < d; ++j) w.out[i * d + j] = 0;
    w.most[i] = kLowest;
    w.sum[i] = Vec{};
  }
  const int64_t visible = position(vectors - 1) + 1;
  const int64_t begin = span * plan.span, stop = begin + plan.span < visible ? begin + plan.span : visible;
  const bool widen_first = sizeof(Element) < sizeof(float) && vectors > 8;
  for (int64_t key = begin; key < stop; key += kKeys) {
    const int64_t count = stop - key < kKeys ? stop - key : kKeys;
    const int64_t tiles = (count + kKeyTile - 1) / kKeyTile;
    const Element* const k = t.k_cache + (head * t.max_context + key) * d;
    const Element* const v = t.v_cache + (head * t.max_context + key) * d;
    if (widen_first) {
      for (int64_t i = 0; i < tiles * kKeyTile * d; i += kLanes) store(w.keys + i, load(k + i));
      for (int64_t i = 0; i < count * d; i += kLanes) store(w.values + i, load(v + i));
    }
    // The next block's part, also where the next span begins: it is this thread's next work.
    const auto prefetch_next = [&](const Element* now, int64_t part) __attribute__((always_inline)) {
      const int64_t first = key + kKeys + part * kKeyTile;
      if (first < plan.end) prefetch(now + (kKeys + part * kKeyTile) * d, kKeyTile * d * sizeof(Element));
    };
    for (int64_t tile = 0; tile < tiles; ++tile) {
      float* const c = w.scores + tile * kKeyTile;
      const int64_t b = tile * kKeyTile * d;
      prefetch_next(k, tile);
      if (widen_first) {
        products<false, 1, kVectors>(vectors, w.q, w.keys + b, kKeyTile, d, c, kKeys);
      } else {
        products<false, 1, kVectors>(vectors, w.q, k + b, kKeyTile, d, c, kKeys);
      }
    }
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t valid = position(i) + 1 - key;
      soften(w.scores + i * kKeys, valid < count ? valid : count, tiles * kKeyTile, w.most + i, w.sum + i,
             w.out + i * d, d);
    }
    for (int64_t column = 0; column < d; column += kKeyTile) {
      if (column < kKeys) prefetch_next(v, column / kKeyTile);
      if (widen_first) {
        products<true, kKeys, 1>(vectors, w.scores, w.values + column, d, count, w.out + column, d);
      } else {
        products<true, kKeys, 1>(vectors, w.scores, v + column, d, count, w.out + column, d);
      }
    }
  }
}

template <typename Element>
void attend_range(const void* arguments, int64_t begin, int64_t end) {
  const auto& t = *static_cast<const GroupedQueryAttention<Element>*>(arguments);
  const Plan plan(t);
  const int64_t d = t.head_dim;
  Work w;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / (plan.blocks * plan.spans), span = item % plan.spans;
    // Later blocks see more keys: early and late ones take turns, so that equal shares of items are equal work.
    const int64_t nth = item / plan.spans % plan.blocks;
    const int64_t block = nth % 2 ? plan.blocks - 1 - nth / 2 : nth / 2;
    attend(t, plan, head, block, span, w);
    for (int64_t i = 0; i < kVectors && block * kVectors + i < plan.vectors; ++i) {
      const int64_t vector = block * kVectors + i;
      const int64_t row = vector / plan.group * t.heads + head * plan.group + vector % plan.group;
      float* const out = plan.spans == 1 ? t.out + row * d : t.scratch + (row * plan.spans + span) * (d + 2);
      float sum = 0;
      for (int64_t lane = 0; lane < kLanes; ++lane) sum += w.sum[i][lane];
      const Vec scale = plan.spans == 1 ? 1 / splat(sum) : splat(1);
      for (int64_t j = 0; j < d; j += kLanes) store(out + j, load(w.out + i * d + j) * scale);
      if (plan.spans > 1) {
        out[d] = w.most[i];
        out[d + 1] = sum;
      }
    }
  }
}

// The spans of the output rows [begin, end), weighted by their maxima and sums.
template <typename Element>
void merge_range(const void* arguments, int64_t begin, int64_t end) {
  const auto& t = *static_cast<const GroupedQueryAttention<Element>*>(arguments);
  const Plan plan(t);
  const int64_t d = t.head_dim;
  for (int64_t row = begin; row < end; ++row) {
    const float* const parts = t.scratch + row * plan.spans * (d + 2);
    float most = kLowest, sum = 0;
    for (int64_t s = 0; s < plan.spans; ++s) {
      const float* const part = parts + s * (d + 2);
      if (part[d + 1] != 0 && !(part[d] <= most)) most = part[d];
    }
    Vec out[kMaxHeadDim / kLanes] = {};
    for (int64_t s = 0; s < plan.spans; ++s) {
      const float* const part = parts + s * (d + 2);
      if (part[d + 1] == 0) continue;  // every key of this span comes later
      const Vec weight = exp2_decay(clamp_decay(splat(part[d] - most)));
      sum += weight[0] * part[d + 1];
      for (int64_t j = 0; j < d; j += kLanes) out[j / kLanes] += weight * load(part + j);
    }
    for (int64_t j = 0; j < d; j += kLanes) store(t.out + row * d + j, out[j / kLanes] / sum);
  }
}

}  // namespace

template <typename Element>
int64_t scratch_floats(const GroupedQueryAttention<Element>& t) {
  const Plan plan(t);
  return plan.spans == 1 ? 0 : t.queries * t.heads * plan.spans * (t.head_dim + 2);
}

template <typename Element>
void grouped_query_attention(const GroupedQueryAttention<Element>& t, ParallelFor parallel_for) {
  const ParallelFor small_for = t.rows <= kFewRows ? serial_for : parallel_for;
  small_for(t.kv_heads, store_range<Element>, &t);
  const Plan plan(t);
  parallel_for(t.kv_heads * plan.blocks * plan.spans, attend_range<Element>, &t);
  if (plan.spans > 1) small_for(t.queries * t.heads, merge_range<Element>, &t);
}

template int64_t scratch_floats(const GroupedQueryAttention<float>&);
template int64_t scratch_floats(const GroupedQueryAttention<Half>&);
template void grouped_query_attention(const GroupedQueryAttention<float>&, ParallelFor);
template void grouped_query_attention(const GroupedQueryAttention<Half>&, ParallelFor);

}  // namespace MVGPT_COPY
}  // namespace mvgpt
