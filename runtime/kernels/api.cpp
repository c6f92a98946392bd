// Plain C entry points, called through ctypes by the exporter's CPU implementation (which has checked the arguments)
// and by tests. One thread: the exporter runs a kernel a few times, ahead of time.
#include "causal_conv1d_silu.h"
#include "selective_scan.h"

#define MVGPT_API extern "C" __attribute__((visibility("default")))

MVGPT_API void mvgpt_causal_conv1d_silu(int64_t length, int64_t d_inner, int64_t d_conv, const float* xz,
                                        const float* w, const float* b, int reverse, float* out) {
  mvgpt::causal_conv1d_silu({length, d_inner, d_conv, xz, w, b, reverse != 0, out}, mvgpt::serial_for);
}

MVGPT_API void mvgpt_selective_scan(int64_t length, int64_t d_inner, int64_t d_state, int64_t dt_rank, const float* xz,
                                    const float* u, const float* xdbl, const float* dt, const float* A2,
                                    const float* D, const float* dt_bias, int reverse, float* out) {
  mvgpt::selective_scan(
      {length, d_inner, d_state, dt_rank, xz, u, xdbl, dt, A2, D, dt_bias, reverse != 0, out}, mvgpt::serial_for);
}
