// A thread takes a range of channels. Each lane of a vector is a channel with its own recurrence.
#include "selective_scan.h"

#include "vec.h"

namespace mvgpt {
inline namespace MVGPT_COPY {
namespace {

constexpr int64_t kTile = 16;  // steps whose softplus, silu and products are computed before their recurrence
// Channels that walk the sequence together. A row is longer than a page, so each walk meets every page of four arrays:
// few walks, or the time goes into address translation.
constexpr int64_t kMaxGroups = 384 / kLanes;
constexpr int64_t kVectorsOfState = 16 * kMaxGroups;
static_assert(kVectorsOfState >= kMaxState);

struct State {
  Vec A2[kVectorsOfState], h[kVectorsOfState];  // 24 KB each
  Vec steepest[kMaxGroups];                     // the least A2 of each channel
};

// The recurrence over one tile for one vector of channels; y comes in as D · u and goes out with h · C added.
// A tenth faster without the clamp.
template <int64_t fixed_d_state, bool clamp>
void recur(const float* const* rows, int64_t steps, int64_t d_state, const Vec* A2, Vec* h, const Vec* delta,
           const Vec* du, Vec* y) {
  const int64_t n_states = fixed_d_state ? fixed_d_state : d_state;
  for (int64_t i = 0; i < steps; ++i) {
    const float* const B = rows[i];
    const float* const C = B + n_states;
    const Vec step = delta[i], input = du[i];
    Vec sum = y[i];
    for (int64_t n = 0; n < n_states; ++n) {
      const Vec exponent = step * A2[n];
      h[n] = exp2_decay(clamp ? clamp_decay(exponent) : exponent) * h[n] + input * B[n];
      sum += h[n] * C[n];
    }
    y[i] = sum;
  }
}

bool needs_clamp(Vec exponent) {
  for (int64_t i = 0; i < kLanes; ++i) {
    if (!(exponent[i] >= kLeastExponent)) return true;  // also for a NaN
  }
  return false;
}

// Hardware does not foresee the next page, and waiting for it costs a fifth of the time.
// (Always inlined: GCC takes calls of a function that only prefetches for free of effects, and drops them.)
__attribute__((always_inline)) inline void prefetch(const SelectiveScan& s, int64_t time,
                                                    int64_t channel) {
  if (time < 0 || time >= s.length) return;
  __builtin_prefetch(s.u + time * s.d_inner + channel);
  __builtin_prefetch(s.dt + time * s.d_inner + channel);
  __builtin_prefetch(s.xz + (2 * time + 1) * s.d_inner + channel);
  __builtin_prefetch(s.out + time * s.d_inner + channel, 1);
}

// `groups` vectors of channels from channel `first` on, over the whole sequence.
void scan_channels(const SelectiveScan& s, int64_t first, int64_t groups) {
  State state;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t channel = first + g * kLanes;
    state.steepest[g] = Vec{};
    for (int64_t n = 0; n < s.d_state; ++n) {
      const Vec A2 = load(s.A2 + n * s.d_inner + channel, s.d_inner - channel);
      // exp2_decay keeps this NaN, not every NaN; those of Δ reach h through Δ · u
      state.A2[g * s.d_state + n] = A2 == A2 ? A2 : splat(__builtin_nanf(""));
      state.h[g * s.d_state + n] = Vec{};
      state.steepest[g] = at_most(state.steepest[g], A2);
    }
  }
  const int64_t row_length = s.dt_rank + 2 * s.d_state;
  for (int64_t start = 0; start < s.length; start += kTile) {
    const int64_t steps = s.length - start < kTile ? s.length - start : kTile;
    int64_t times[kTile];
    const float* rows[kTile];
    for (int64_t i = 0; i < steps; ++i) {
      times[i] = s.reverse ? s.length - 1 - start - i : start + i;
      rows[i] = s.xdbl + times[i] * row_length + s.dt_rank;
    }
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t channel = first + g * kLanes;
      const int64_t lanes = s.d_inner - channel;
      const Vec bias = load(s.dt_bias + channel, lanes);
      const Vec D = load(s.D + channel, lanes);
      Vec delta[kTile], du[kTile], y[kTile], longest{};
      for (int64_t i = 0; i < steps; ++i) {
        prefetch(s, times[i] + (s.reverse ? -kTile : kTile), channel);
        const Vec u = load(s.u + times[i] * s.d_inner + channel, lanes);
        delta[i] = softplus(load(s.dt + times[i] * s.d_inner + channel, lanes) + bias);
        longest = at_least(longest, delta[i]);
        du[i] = delta[i] * u;
        y[i] = D * u;
      }
      const bool clamp = needs_clamp(longest * state.steepest[g]);
      const auto recurrence = s.d_state == 16 ? (clamp ? recur<16, true> : recur<16, false>)
                                              : (clamp ? recur<0, true> : recur<0, false>);
      recurrence(rows, steps, s.d_state, state.A2 + g * s.d_state, state.h + g * s.d_state, delta, du, y);
      for (int64_t i = 0; i < steps; ++i) {
        const Vec z = load(s.xz + (2 * times[i] + 1) * s.d_inner + channel, lanes);
        store(s.out + times[i] * s.d_inner + channel, y[i] * silu(z), lanes);
      }
    }
  }
}

void scan_range(const void* arguments, int64_t begin, int64_t end) {
  const SelectiveScan& s = *static_cast<const SelectiveScan*>(arguments);
  const int64_t fit = kVectorsOfState / s.d_state;
  const int64_t most = fit < kMaxGroups ? fit : kMaxGroups;
  const int64_t walks = (end - begin + most - 1) / most;
  for (int64_t walk = 0; walk < walks; ++walk) {
    const int64_t first = begin + (end - begin) * walk / walks, last = begin + (end - begin) * (walk + 1) / walks;
    scan_channels(s, first * kLanes, last - first);
  }
}

}  // namespace

void selective_scan(const SelectiveScan& scan, ParallelFor parallel_for) {
  parallel_for((scan.d_inner + kLanes - 1) / kLanes, scan_range, &scan);
}

}  // namespace MVGPT_COPY
}  // namespace mvgpt
