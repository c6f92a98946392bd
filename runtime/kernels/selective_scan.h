// The selective scan of one direction of a Mamba block, from its projections to its gated output.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mvgpt {

constexpr int64_t kMaxState = 256;  // d_state that the kernel's scratch memory holds

// With Δ = softplus(dt + dt_bias) and h = 0 before the first step:
//   h_t = exp2(Δ_t · A2) ⊙ h_{t-1} + (Δ_t · u_t) ⊗ B_t
//   out_t = (h_t · C_t + D ⊙ u_t) ⊙ silu(z_t)
// All tensors are contiguous float32. `reverse` runs from the last step to the first; out keeps the order of time.
struct SelectiveScan {
  int64_t length, d_inner, d_state, dt_rank;
  const float* xz;       // [length, 2 · d_inner]: z is the second half of a row
  const float* u;        // [length, d_inner]
  const float* xdbl;     // [length, dt_rank + 2 · d_state]: B and C are the last two parts of a row
  const float* dt;       // [length, d_inner]
  const float* A2;       // [d_state, d_inner]: -exp(A_log)ᵀ · log2(e), never positive
  const float* D;        // [d_inner]
  const float* dt_bias;  // [d_inner]
  bool reverse;
  float* out;  // [length, d_inner], apart from all inputs
};

inline namespace MVGPT_COPY {

// d_state is 1 … kMaxState; every other size may be 0.
void selective_scan(const SelectiveScan& scan, ParallelFor parallel_for);

}  // namespace MVGPT_COPY

}  // namespace mvgpt
