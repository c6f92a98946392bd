// Causal grouped-query attention over a KV cache: rotates and stores new keys and values, attends with new queries.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mvgpt {

constexpr int64_t kKeyTile = 16;      // keys that stand side by side in the cache, as in a vector
constexpr int64_t kMaxHeadDim = 128;  // that the kernel's memory on the stack holds

// Rows of kv go to positions start … start + rows - 1; the queries are of the last `queries` of them, and each sees all
// positions up to its own. Query head h uses key/value head h / (heads / kv_heads). All tensors are contiguous; Element
// is float or uint16_t (IEEE half bits), for storage only: all arithmetic is float.
//
// Keys are stored in tiles of kKeyTile, so that a vector holds one component of neighbouring keys and a score needs no
// sum across lanes. What stands in the cache beyond start + rows never matters.
template <typename Element>
struct GroupedQueryAttention {
  int64_t rows, queries, heads, kv_heads, head_dim, max_context, start;
  const float* q;    // [queries, heads · head_dim], not rotated
  const float* kv;   // [rows, 2 · kv_heads · head_dim]: keys, not rotated, then values
  const float* cos;  // [max_context, head_dim / 2], of every position; rotate-half layout
  const float* sin;
  Element* k_cache;  // [kv_heads, max_context / kKeyTile, head_dim, kKeyTile]
  Element* v_cache;  // [kv_heads, max_context, head_dim]
  float* out;        // [queries, heads · head_dim], apart from all inputs
  float* scratch;    // as many floats as scratch_floats() says; the kernel allocates nothing
};

inline namespace MVGPT_COPY {

template <typename Element>
int64_t scratch_floats(const GroupedQueryAttention<Element>& attention);

// 1 <= queries <= rows, start >= 0, start + rows <= max_context, kv_heads divides heads, kKeyTile divides head_dim and
// max_context, head_dim <= kMaxHeadDim.
template <typename Element>
void grouped_query_attention(const GroupedQueryAttention<Element>& attention, ParallelFor parallel_for);

}  // namespace MVGPT_COPY

}  // namespace mvgpt
