// A thread takes a range of channels and walks the rows in order of time: d_conv row parts stay in cache.
#include "causal_conv1d_silu.h"

#include "vec.h"

namespace mvgpt {
namespace {

void conv_range(const void* arguments, int64_t begin, int64_t end) {
  const CausalConv1dSilu& c = *static_cast<const CausalConv1dSilu*>(arguments);
  const int64_t row_length = 2 * c.d_inner;
  for (int64_t t = 0; t < c.length; ++t) {
    // Taps of which the input exists: the last min(d_conv, steps since the start).
    const int64_t past = c.reverse ? c.length - 1 - t : t;
    const int64_t first_tap = past < c.d_conv - 1 ? c.d_conv - 1 - past : 0;
    const int64_t stride = c.reverse ? -row_length : row_length;
    const float* const now = c.xz + t * row_length;  // the input of the last tap
    for (int64_t group = begin; group < end; ++group) {
      const int64_t channel = group * kLanes;
      const int64_t lanes = c.d_inner - channel;
      Vec sum = load(c.b + channel, lanes);
      for (int64_t k = first_tap; k < c.d_conv; ++k) {
        sum += load(c.w + k * c.d_inner + channel, lanes) * load(now + (k - c.d_conv + 1) * stride + channel, lanes);
      }
      store(c.out + t * c.d_inner + channel, silu(sum), lanes);
    }
  }
}

}  // namespace

void causal_conv1d_silu(const CausalConv1dSilu& conv, ParallelFor parallel_for) {
  parallel_for((conv.d_inner + kLanes - 1) / kLanes, conv_range, &conv);
}

}  // namespace mvgpt
