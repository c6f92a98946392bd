// A thread takes a range of channels and walks the rows in order of time: d_conv row parts stay in cache.
#include "causal_conv1d_silu.h"

#include "vec.h"

namespace mvgpt {
inline namespace MVGPT_COPY {
namespace {

// One row for the groups [begin, end); `now` is the input of the last tap, `stride` leads to the next step's input.
template <int64_t fixed_d_conv>
void conv_row(const CausalConv1dSilu& c, int64_t begin, int64_t end, int64_t first_tap, const float* now,
              int64_t stride, float* out) {
  const int64_t d_conv = fixed_d_conv ? fixed_d_conv : c.d_conv;
  for (int64_t group = begin; group < end; ++group) {
    const int64_t channel = group * kLanes;
    const int64_t lanes = c.d_inner - channel;
    Vec sum = load(c.b + channel, lanes);
    for (int64_t k = fixed_d_conv ? 0 : first_tap; k < d_conv; ++k) {
      sum += load(c.w + k * c.d_inner + channel, lanes) * load(now + (k - d_conv + 1) * stride + channel, lanes);
    }
    store(out + channel, silu(sum), lanes);
  }
}

void conv_range(const void* arguments, int64_t begin, int64_t end) {
  const CausalConv1dSilu& c = *static_cast<const CausalConv1dSilu*>(arguments);
  const int64_t row_length = 2 * c.d_inner;
  const int64_t stride = c.reverse ? -row_length : row_length;
  for (int64_t t = 0; t < c.length; ++t) {
    const int64_t past = c.reverse ? c.length - 1 - t : t;  // steps before this one
    const int64_t first_tap = past < c.d_conv - 1 ? c.d_conv - 1 - past : 0;
    const auto row = c.d_conv == 4 && first_tap == 0 ? conv_row<4> : conv_row<0>;
    row(c, begin, end, first_tap, c.xz + t * row_length, stride, c.out + t * c.d_inner);
  }
}

}  // namespace

void causal_conv1d_silu(const CausalConv1dSilu& conv, ParallelFor parallel_for) {
  parallel_for((conv.d_inner + kLanes - 1) / kLanes, conv_range, &conv);
}

}  // namespace MVGPT_COPY
}  // namespace mvgpt
