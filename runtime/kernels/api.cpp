// Plain C entry points, called through ctypes by the exporter's CPU implementation (which has checked the arguments)
// and by tests. One thread: the exporter runs a kernel a few times, ahead of time.
#include <memory>

#include "kernels.h"

#define MVGPT_API extern "C" __attribute__((visibility("default")))

MVGPT_API void mvgpt_causal_conv1d_silu(int64_t length, int64_t d_inner, int64_t d_conv, const float* xz,
                                        const float* w, const float* b, int reverse, float* out) {
  mvgpt::kernels()->causal_conv1d_silu({length, d_inner, d_conv, xz, w, b, reverse != 0, out}, mvgpt::serial_for);
}

MVGPT_API void mvgpt_selective_scan(int64_t length, int64_t d_inner, int64_t d_state, int64_t dt_rank, const float* xz,
                                    const float* u, const float* xdbl, const float* dt, const float* A2,
                                    const float* D, const float* dt_bias, int reverse, float* out) {
  mvgpt::kernels()->selective_scan(
      {length, d_inner, d_state, dt_rank, xz, u, xdbl, dt, A2, D, dt_bias, reverse != 0, out}, mvgpt::serial_for);
}

namespace {

template <typename Element>
void attend(const mvgpt::AttentionKernel<Element>& kernel, mvgpt::GroupedQueryAttention<Element> attention) {
  const std::unique_ptr<float[]> scratch(new float[kernel.scratch_floats(attention)]);
  attention.scratch = scratch.get();
  kernel.run(attention, mvgpt::serial_for);
}

}  // namespace

MVGPT_API void mvgpt_grouped_query_attention(int64_t rows, int64_t queries, int64_t heads, int64_t kv_heads,
                                             int64_t head_dim, int64_t max_context, int64_t start, const float* q,
                                             const float* kv, const float* cos, const float* sin, void* k_cache,
                                             void* v_cache, float* out, int half) {
  const auto call = [&](const auto& kernel, auto* k, auto* v) {
    attend(kernel, mvgpt::GroupedQueryAttention<std::remove_pointer_t<decltype(k)>>{
        rows, queries, heads, kv_heads, head_dim, max_context, start, q, kv, cos, sin, k, v, out, nullptr});
  };
  if (half) {
    call(mvgpt::kernels()->half_attention, static_cast<uint16_t*>(k_cache), static_cast<uint16_t*>(v_cache));
  } else {
    call(mvgpt::kernels()->attention, static_cast<float*>(k_cache), static_cast<float*>(v_cache));
  }
}

MVGPT_API void mvgpt_linear_4bit(int64_t rows, int64_t width, int64_t outputs, int64_t group, const float* x,
                                 const uint8_t* table, const uint16_t* scales, float* out) {
  mvgpt::kernels()->linear_4bit({rows, width, outputs, group, x, table, scales, out}, mvgpt::serial_for);
}

// The compiled copy of the kernels that calls use from now on, also in programs: 1, or 0 if there is none of that name
// that this processor runs.
MVGPT_API int mvgpt_use_kernels(const char* name) { return mvgpt::use_kernels(name); }

MVGPT_API const char* mvgpt_kernels_name() { return mvgpt::kernels() ? mvgpt::kernels()->name : ""; }
