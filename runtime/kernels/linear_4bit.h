// A linear layer for one row (or a few) whose weights are 4-bit in groups: the language model's head, which reads the
// same table as ExecuTorch's quantized_decomposed::embedding_4bit.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mvgpt {

constexpr int64_t kGroupUnit = 32;        // `group` is 1, 2 or 4 of these, and `width` a multiple of 64 and of `group`
constexpr int64_t kMaxWidth4bit = 16384;  // that the kernel's memory on the stack holds

// out[row, i] = Σ_j x[row, j] · scales[i, j / group] · (nibble(i, j) - 8), where nibble(i, j) is the high half of byte
// j / 2 of the table's row i for even j and the low half for odd j. x is rounded to 8 bits first, symmetrically, with
// one scale for the row. All tensors are contiguous.
struct Linear4bit {
  int64_t rows, width, outputs, group;
  const float* x;          // [rows, width]
  const uint8_t* table;    // [outputs, width / 2]
  const uint16_t* scales;  // [outputs, width / group], IEEE half bits
  float* out;              // [rows, outputs]
};

inline namespace MVGPT_COPY {

void linear_4bit(const Linear4bit& linear, ParallelFor parallel_for);

}  // namespace MVGPT_COPY

}  // namespace mvgpt
