// The kernels against the definition in double, over the shapes and values where kernels go wrong. Needs nothing but
// the kernels: it also runs under sanitizers and, cross-compiled, under qemu. Exit status 0 is success.
#include <cstdlib>
#include <limits>

#include "causal_conv1d_silu.h"
#include "selective_scan.h"
#include "test_support.h"
#include "vec.h"

namespace {

constexpr double kTolerance = 1e-6;  // rms of the error over rms of the result

double silu_of(double x) { return x / (1 + std::exp(-x)); }
double softplus_of(double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }

struct Case {
  const char* name;
  int64_t length, d_inner, d_state, dt_rank;
  float dt_scale, dt_shift;
};

struct ScanInputs {
  Floats xz, u, xdbl, dt, A2, D, dt_bias, out;
  explicit ScanInputs(const Case& c)
      : xz(normal(c.length * 2 * c.d_inner, 1)),
        u(normal(c.length * c.d_inner, 1)),
        xdbl(normal(c.length * (c.dt_rank + 2 * c.d_state), 1)),
        dt(normal(c.length * c.d_inner, c.dt_scale, c.dt_shift)),
        A2(normal(c.d_state * c.d_inner, 1)),
        D(normal(c.d_inner, 1)),
        dt_bias(normal(c.d_inner, 1, -4)),  // Δ of about 0.02, as Mamba is initialised
        out(new float[c.length * c.d_inner]) {
    for (int64_t i = 0; i < c.d_state * c.d_inner; ++i) A2[i] = -std::exp(A2[i] + 1);
  }
  mvgpt::SelectiveScan arguments(const Case& c, bool reverse) const {
    return {c.length, c.d_inner,  c.d_state, c.dt_rank, xz.get(),      u.get(), xdbl.get(),
            dt.get(), A2.get(),   D.get(),   dt_bias.get(), reverse,   out.get()};
  }
};

std::vector<double> scan_in_double(const mvgpt::SelectiveScan& s) {
  std::vector<double> out(s.length * s.d_inner), h(s.d_inner * s.d_state);
  for (int64_t i = 0; i < s.length; ++i) {
    const int64_t t = s.reverse ? s.length - 1 - i : i;
    const float* const B = s.xdbl + t * (s.dt_rank + 2 * s.d_state) + s.dt_rank;
    for (int64_t c = 0; c < s.d_inner; ++c) {
      const double u = s.u[t * s.d_inner + c];
      const double delta = softplus_of(double(s.dt[t * s.d_inner + c]) + s.dt_bias[c]);
      double y = s.D[c] * u;
      for (int64_t n = 0; n < s.d_state; ++n) {
        double& state = h[c * s.d_state + n];
        state = std::exp2(delta * s.A2[n * s.d_inner + c]) * state + delta * u * B[n];
        y += state * B[s.d_state + n];
      }
      out[t * s.d_inner + c] = y * silu_of(s.xz[(2 * t + 1) * s.d_inner + c]);
    }
  }
  return out;
}

void test_scan(const Case& c) {
  const ScanInputs inputs(c);
  for (const bool reverse : {false, true}) {
    const mvgpt::SelectiveScan s = inputs.arguments(c, reverse);
    const std::vector<double> expected = scan_in_double(s);
    mvgpt::selective_scan(s, mvgpt::serial_for);
    const double error = relative_rms(s.out, expected);
    std::printf("selective_scan %-22s L %4d  d_inner %4d  d_state %3d  %s  error %.1e\n", c.name, int(c.length),
                int(c.d_inner), int(c.d_state), reverse ? "reverse" : "forward", error);
    check(error <= kTolerance, c.name, error);
    std::vector<float> serial(s.out, s.out + c.length * c.d_inner);
    mvgpt::selective_scan(s, two_threads);
    for (size_t i = 0; i < serial.size(); ++i) check(serial[i] == s.out[i], "threads change a result", double(i));
  }
}

void test_conv(int64_t length, int64_t d_inner, int64_t d_conv) {
  const Floats xz = normal(length * 2 * d_inner, 1), w = normal(d_conv * d_inner, 1), b = normal(d_inner, 1);
  const Floats out(new float[length * d_inner]);
  for (const bool reverse : {false, true}) {
    std::vector<double> expected(length * d_inner);
    for (int64_t t = 0; t < length; ++t) {
      for (int64_t c = 0; c < d_inner; ++c) {
        double sum = b[c];
        for (int64_t k = 0; k < d_conv; ++k) {
          const int64_t back = d_conv - 1 - k, source = reverse ? t + back : t - back;
          if (source >= 0 && source < length) sum += double(w[k * d_inner + c]) * xz[2 * source * d_inner + c];
        }
        expected[t * d_inner + c] = silu_of(sum);
      }
    }
    const mvgpt::CausalConv1dSilu conv{length, d_inner, d_conv, xz.get(), w.get(), b.get(), reverse, out.get()};
    mvgpt::causal_conv1d_silu(conv, mvgpt::serial_for);
    const double error = relative_rms(out.get(), expected);
    std::printf("causal_conv1d_silu L %4d  d_inner %4d  d_conv %d  %s  error %.1e\n", int(length), int(d_inner),
                int(d_conv), reverse ? "reverse" : "forward", error);
    check(error <= kTolerance, "causal_conv1d_silu", error);
    std::vector<float> serial(out.get(), out.get() + length * d_inner);
    mvgpt::causal_conv1d_silu(conv, two_threads);
    for (size_t i = 0; i < serial.size(); ++i) check(serial[i] == out[i], "threads change a result", double(i));
  }
}

// One NaN spoils its own channel from its time on, and nothing else.
void test_nan(float nan) {
  const Case c{"NaN", 40, 11, 16, 3, 1, 0};
  enum Input { u, dt, z, A2, D, dt_bias, count };
  for (int input = 0; input < count; ++input) {
    ScanInputs inputs(c);
    const int64_t t = 17, channel = 10;
    float* const spots[] = {&inputs.u[t * c.d_inner + channel], &inputs.dt[t * c.d_inner + channel],
                            &inputs.xz[(2 * t + 1) * c.d_inner + channel], &inputs.A2[5 * c.d_inner + channel],
                            &inputs.D[channel], &inputs.dt_bias[channel]};
    *spots[input] = nan;
    mvgpt::selective_scan(inputs.arguments(c, false), mvgpt::serial_for);
    const int64_t last = input == z ? t : c.length - 1, start = input <= z ? t : 0;
    for (int64_t i = 0; i < c.length * c.d_inner; ++i) {
      const int64_t time = i / c.d_inner;
      const bool spoiled = i % c.d_inner == channel && time >= start && time <= last;
      check(std::isnan(inputs.out[i]) == spoiled, "NaN of the input", input * 1e6 + double(i));
    }
  }
}

void test_functions() {
  const auto near = [](float got, double expected, const char* what, double x) {
    // Relative, and absolute among denormals, whose spacing is 1.4e-45.
    check(std::fabs(got - expected) <= 3e-7 * std::fabs(expected) + 3e-45, what, x);
  };
  for (double x = -110; x <= 88.5; x += 1.0 / 64) near(exp(splat(float(x)))[0], std::exp(x), "exp", x);
  for (double x = -126; x <= 0; x += 1.0 / 64) near(exp2_decay(splat(float(x)))[0], std::exp2(x), "exp2_decay", x);
  for (double x = -110; x <= 200; x += 1.0 / 64) near(softplus(splat(float(x)))[0], softplus_of(x), "softplus", x);
  const float infinity = std::numeric_limits<float>::infinity();
  check(softplus(splat(1e30f))[0] == 1e30f, "softplus of a large number", 1e30);
  check(softplus(splat(infinity))[0] == infinity, "softplus of infinity", infinity);
  check(softplus(splat(-infinity))[0] == 0, "softplus of -infinity", -infinity);
  check(exp(splat(89))[0] == infinity, "exp overflow", 89);
  check(exp2_decay(clamp_decay(splat(-infinity)))[0] <= 1.2e-38f, "decay of -infinity", -infinity);
  check(exp2_decay(clamp_decay(splat(-0.0f)))[0] == 1, "decay of -0", 0);
  const float nan = -std::nanf("0x123");
  check(std::isnan(exp(splat(nan))[0]) && std::isnan(softplus(splat(nan))[0]) && std::isnan(silu(splat(nan))[0]),
        "NaN in a function", 0);
}

}  // namespace

int main() {
  std::printf("%d lanes\n", int(kLanes));
  test_functions();
  for (const int64_t length : {1, 2, 15, 16, 17, 1569}) {
    test_scan({"shape", length, 24, 16, 36, 1, 0});
    test_scan({"shape", length, 13, 16, 3, 1, 0});
    test_conv(length, 24, 4);
    test_conv(length, 13, 4);
    test_conv(length, 13, 3);
  }
  test_scan({"one channel", 33, 1, 16, 1, 1, 0});
  test_scan({"several walks", 33, 905, 16, 1, 1, 0});
  test_scan({"odd state", 33, 150, 5, 2, 1, 0});
  test_scan({"largest state", 20, 20, mvgpt::kMaxState, 0, 1, 0});
  test_scan({"dt past overflow", 100, 24, 16, 3, 60, 100});
  test_scan({"some tiles clamped", 100, 24, 16, 3, 4, 0});
  test_scan({"dt very negative", 100, 24, 16, 3, 10, -60});
  test_scan({"dt of both signs", 100, 24, 16, 3, 50, 0});
  test_scan({"empty sequence", 0, 24, 16, 3, 1, 0});
  test_conv(0, 24, 4);
  test_conv(2, 9, 1);
  test_nan(std::nanf(""));
  test_nan(-std::nanf("0x3fffff"));
  test_language_model();
  std::printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
