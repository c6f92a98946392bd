// The kernels as their callers get them: the compiled copy that suits the processor.
#pragma once

#include "attention.h"
#include "causal_conv1d_silu.h"
#include "linear_4bit.h"
#include "selective_scan.h"

namespace mvgpt {

template <typename Element>
struct AttentionKernel {
  int64_t (*scratch_floats)(const GroupedQueryAttention<Element>& attention);
  void (*run)(const GroupedQueryAttention<Element>& attention, ParallelFor parallel_for);
};

// One compiled copy.
struct Kernels {
  const char* name;
  void (*causal_conv1d_silu)(const CausalConv1dSilu& conv, ParallelFor parallel_for);
  void (*selective_scan)(const SelectiveScan& scan, ParallelFor parallel_for);
  void (*linear_4bit)(const Linear4bit& linear, ParallelFor parallel_for);
  AttentionKernel<float> attention;
  AttentionKernel<uint16_t> half_attention;
};

// The fastest copy that this processor runs, or the one that was chosen; nullptr if it runs none.
const Kernels* kernels();

// Chooses a copy by name, for tests and measurements; false if there is none that this processor runs.
bool use_kernels(const char* name);

}  // namespace mvgpt
