// Causal depthwise convolution over time, then SiLU: the input step of one direction of a Mamba block.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mvgpt {

// out_t = silu(b + Σ_k w_k ⊙ x_{t - (d_conv - 1) + k}), x = 0 before the first step. `reverse` looks ahead instead:
// x_{t + (d_conv - 1) - k}, which is the same on the reversed sequence, reversed back.
// All tensors are contiguous float32.
struct CausalConv1dSilu {
  int64_t length, d_inner, d_conv;
  const float* xz;  // [length, 2 · d_inner]: x is the first half of a row
  const float* w;   // [d_conv, d_inner]: neighbouring channels are neighbours in memory
  const float* b;   // [d_inner]
  bool reverse;
  float* out;  // [length, d_inner], apart from all inputs
};

inline namespace MVGPT_COPY {

void causal_conv1d_silu(const CausalConv1dSilu& conv, ParallelFor parallel_for);

}  // namespace MVGPT_COPY

}  // namespace mvgpt
