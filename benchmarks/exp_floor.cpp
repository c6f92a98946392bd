// The floor of a selective scan: its exponentials alone, by the kernel's own exp2 and in the kernel's order.
// Compiled by scan.py with the kernels' flags.
#include <cstdint>

#include "vec.h"

// Sums exp2(delta_t · A2_n) over everything, so that nothing is optimised away. d_inner is a multiple of 64.
extern "C" __attribute__((visibility("default"))) float exponentials(int64_t length, int64_t d_inner, int64_t d_state,
                                                                     const float* delta, const float* A2) {
  constexpr int64_t kTile = 16, kBlock = 64;
  Vec sums[4] = {};  // independent, so that additions do not wait for each other
  for (int64_t block = 0; block < d_inner; block += kBlock) {
    for (int64_t start = 0; start < length; start += kTile) {
      const int64_t end = start + kTile < length ? start + kTile : length;
      for (int64_t channel = block; channel < block + kBlock; channel += kLanes) {
        for (int64_t t = start; t < end; ++t) {
          const Vec step = load(delta + t * d_inner + channel);
          for (int64_t n = 0; n < d_state; ++n) sums[n % 4] += exp2_decay(step * load(A2 + n * d_inner + channel));
        }
      }
    }
  }
  const Vec sum = sums[0] + sums[1] + sums[2] + sums[3];
  float total = 0;
  for (int64_t i = 0; i < kLanes; ++i) total += sum[i];
  return total;
}
