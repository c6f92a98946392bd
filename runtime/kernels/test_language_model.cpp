// Attention, the 4-bit head and half precision: see test_kernels.cpp.
#include <algorithm>
#include <cstring>
#include <limits>

#include "attention.h"
#include "half.h"
#include "linear_4bit.h"
#include "test_support.h"

namespace {

constexpr double kTolerance = 1e-6;           // rms of the error over rms of the result
constexpr double kAttentionTolerance = 2e-6;  // e^x amplifies the rounding of scores

double value_of(Half bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  return exponent ? sign * std::ldexp(1024 + mantissa, exponent - 25) : sign * std::ldexp(mantissa, -24);
}
double value_of(float x) { return x; }

void test_half() {
  for (int bits = 0; bits < 65536; ++bits) {
    std::vector<Half> halves(kLanes, static_cast<Half>(bits));
    const float wide = load(halves.data())[0], portable = widen(load_bits(halves.data()))[0];
    const double expected = value_of(halves[0]);
    if (std::isnan(expected)) {
      check(std::isnan(wide) && std::isnan(portable) && std::isnan(value_of(to_half(wide))), "half NaN", bits);
    } else {
      check(wide == expected && portable == expected, "widen", bits);
      check(to_half(wide) == bits, "half to float and back", bits);
      // Halfway to the next: ties to even; a little more or less: to the nearer one.
      const double next = value_of(static_cast<Half>(bits + 1));
      if ((bits & 0x7FFF) < 0x7BFF) {
        const float middle = static_cast<float>((expected + next) / 2);
        check(to_half(middle) == (bits & 1 ? bits + 1 : bits), "half, a tie", bits);
        check(to_half(std::nextafterf(middle, wide)) == bits, "half, below a tie", bits);
        check(to_half(std::nextafterf(middle, static_cast<float>(next))) == bits + 1, "half, above a tie", bits);
      }
    }
  }
  check(to_half(65519.99f) == 0x7BFF && to_half(65520) == 0x7C00 && to_half(1e30f) == 0x7C00, "half overflow", 0);
}

struct Shape {
  int64_t rows, queries, start, heads, kv_heads, head_dim, max_context;
};

template <typename Element>
void test_attention(const Shape& s) {
  const int64_t d = s.head_dim, half = d / 2, cached = s.kv_heads * s.max_context * d;
  const Floats q = normal(s.queries * s.heads * d, 2), kv = normal(s.rows * 2 * s.kv_heads * d, 1);
  Floats cos = normal(s.max_context * half, 3), sin(new float[s.max_context * half]);
  for (int64_t i = 0; i < s.max_context * half; ++i) {
    sin[i] = std::sin(cos[i]);
    cos[i] = std::cos(cos[i]);
  }
  std::unique_ptr<Element[]> k(new Element[cached]), v(new Element[cached]);
  for (int64_t i = 0; i < cached; ++i) {
    // Positions not yet written hold NaN: they must not matter.
    const int64_t k_position = i / (d * mvgpt::kKeyTile) % (s.max_context / mvgpt::kKeyTile) * mvgpt::kKeyTile +
                               i % mvgpt::kKeyTile;
    const int64_t v_position = i / d % s.max_context;
    const float old = normal(1, 1)[0], none = std::nanf("");
    const float k_value = k_position < s.start ? old : none, v_value = v_position < s.start ? old : none;
    if constexpr (sizeof(Element) == 2) {
      k[i] = to_half(k_value);
      v[i] = to_half(v_value);
    } else {
      k[i] = k_value;
      v[i] = v_value;
    }
  }
  const Floats out(new float[s.queries * s.heads * d]);
  mvgpt::GroupedQueryAttention<Element> call{
      s.rows,   s.queries, s.heads,   s.kv_heads, d,       s.max_context, s.start,
      q.get(),  kv.get(),  cos.get(), sin.get(),  k.get(), v.get(),       out.get(), nullptr};
  const Floats scratch(new float[scratch_floats(call)]);
  call.scratch = scratch.get();
  mvgpt::grouped_query_attention(call, mvgpt::serial_for);

  const auto rotated = [&](const float* x, int64_t position) {
    std::vector<double> r(d);
    for (int64_t i = 0; i < half; ++i) {
      const double c = cos[position * half + i], z = sin[position * half + i];
      r[i] = x[i] * c - x[i + half] * z;
      r[i + half] = x[i + half] * c + x[i] * z;
    }
    return r;
  };
  const auto key = [&](int64_t head, int64_t p, int64_t i) {
    const int64_t tile = head * s.max_context / mvgpt::kKeyTile + p / mvgpt::kKeyTile;
    return value_of(k[(tile * d + i) * mvgpt::kKeyTile + p % mvgpt::kKeyTile]);
  };
  for (int64_t row = 0; row < s.rows; ++row) {  // what was stored
    for (int64_t head = 0; head < s.kv_heads; ++head) {
      const float* const x = kv.get() + (2 * row * s.kv_heads + head) * d;
      const std::vector<double> r = rotated(x, s.start + row);
      const double unit = sizeof(Element) == 2 ? 1e-3 : 1e-6;
      for (int64_t i = 0; i < d; ++i) {
        check(std::fabs(key(head, s.start + row, i) - r[i]) <= unit * (1 + std::fabs(r[i])), "stored key", double(i));
        const double value = value_of(v[(head * s.max_context + s.start + row) * d + i]);
        const double given = x[s.kv_heads * d + i];
        check(std::fabs(value - given) <= unit * (1 + std::fabs(given)), "stored value", double(i));
      }
    }
  }
  std::vector<double> expected;
  for (int64_t query = 0; query < s.queries; ++query) {
    const int64_t position = s.start + s.rows - s.queries + query;
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t head = h / (s.heads / s.kv_heads);
      const std::vector<double> r = rotated(q.get() + (query * s.heads + h) * d, position);
      std::vector<double> weights(position + 1), sum(d);
      double most = -1e300, total = 0;
      for (int64_t p = 0; p <= position; ++p) {
        for (int64_t i = 0; i < d; ++i) weights[p] += r[i] * key(head, p, i) / std::sqrt(double(d));
        most = std::fmax(most, weights[p]);
      }
      for (int64_t p = 0; p <= position; ++p) {
        const double w = std::exp(weights[p] - most);
        total += w;
        for (int64_t i = 0; i < d; ++i) sum[i] += w * value_of(v[(head * s.max_context + p) * d + i]);
      }
      for (int64_t i = 0; i < d; ++i) expected.push_back(sum[i] / total);
    }
  }
  const double error = relative_rms(out.get(), expected);
  std::printf("attention %s  rows %3d  queries %3d  start %4d  heads %2d/%d of %3d  error %.1e\n",
              sizeof(Element) == 2 ? "half " : "float", int(s.rows), int(s.queries), int(s.start), int(s.heads),
              int(s.kv_heads), int(d), error);
  check(error <= kAttentionTolerance, "attention", error);
  const std::vector<float> serial(out.get(), out.get() + s.queries * s.heads * d);
  mvgpt::grouped_query_attention(call, two_threads);
  check(std::memcmp(serial.data(), out.get(), serial.size() * sizeof(float)) == 0, "threads change a result", 0);
}

void test_linear_4bit(int64_t rows, int64_t width, int64_t outputs, int64_t group) {
  const Floats x = normal(rows * width, 1);
  std::vector<uint8_t> table(outputs * width / 2);
  for (uint8_t& byte : table) byte = static_cast<uint8_t>(random_bits());
  std::vector<Half> scales(outputs * width / group);
  for (Half& scale : scales) scale = to_half(normal(1, 0.05f)[0]);
  const Floats out(new float[rows * outputs]);
  const mvgpt::Linear4bit call{rows, width, outputs, group, x.get(), table.data(), scales.data(), out.get()};
  mvgpt::linear_4bit(call, mvgpt::serial_for);
  std::vector<double> expected;
  for (int64_t r = 0; r < rows; ++r) {
    double most = 0;
    for (int64_t j = 0; j < width; ++j) most = std::max<double>(most, std::fabs(x[r * width + j]));
    const float inverse = 127 / static_cast<float>(most);  // rounded as the kernel rounds
    std::vector<int> rounded;
    for (int64_t j = 0; j < width; ++j) rounded.push_back(static_cast<int>(std::nearbyint(x[r * width + j] * inverse)));
    for (int64_t i = 0; i < outputs; ++i) {
      double sum = 0;
      for (int64_t g = 0; g < width / group; ++g) {
        int64_t part = 0;
        for (int64_t j = g * group; j < (g + 1) * group; ++j) {
          const int byte = table[(i * width + j) / 2], nibble = j % 2 ? byte & 15 : byte >> 4;
          part += rounded[j] * (nibble - 8);
        }
        sum += part * value_of(scales[i * (width / group) + g]);
      }
      expected.push_back(sum * most / 127);
    }
  }
  const double error = relative_rms(out.get(), expected);
  std::printf("linear_4bit rows %d  width %4d  outputs %4d  group %3d  error %.1e\n", int(rows), int(width),
              int(outputs), int(group), error);
  check(error <= kTolerance, "linear_4bit", error);
  const std::vector<float> serial(out.get(), out.get() + rows * outputs);
  mvgpt::linear_4bit(call, two_threads);
  check(std::memcmp(serial.data(), out.get(), serial.size() * sizeof(float)) == 0, "threads change a result", 0);
}

void test_spoiled_head() {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    const Floats x = normal(64, 1);
    x[5] = bad;
    const std::vector<uint8_t> table(32 * 3, 0x99);
    const std::vector<Half> scales(2 * 3, to_half(1));
    float out[3] = {};
    mvgpt::linear_4bit({1, 64, 3, 32, x.get(), table.data(), scales.data(), out}, mvgpt::serial_for);
    for (const float y : out) check(std::isnan(y), "linear_4bit of what is not finite", y);
  }
}

}  // namespace

void test_language_model() {
  test_half();
  const Shape shapes[] = {
      {1, 1, 0, 2, 1, 16, 16},      {1, 1, 15, 6, 2, 32, 32},      {1, 1, 16, 14, 2, 64, 32},
      {1, 1, 700, 14, 2, 64, 704},  {1, 1, 255, 12, 2, 128, 272},  {1, 1, 256, 9, 3, 64, 272},
      {7, 7, 0, 14, 2, 64, 64},     {33, 33, 31, 14, 2, 64, 64},   {144, 144, 70, 14, 2, 64, 224},
      {20, 20, 300, 12, 2, 128, 320}, {144, 1, 70, 14, 2, 64, 224}, {5, 2, 11, 16, 1, 48, 16},
      {3, 3, 600, 40, 2, 32, 608},
  };
  for (const Shape& shape : shapes) {
    test_attention<float>(shape);
    test_attention<Half>(shape);
  }
  for (const int64_t group : {32, 64, 128}) {
    test_linear_4bit(1, 896, 200, group);
    test_linear_4bit(2, 128, 65, group);
  }
  test_linear_4bit(1, 64, 1, 32);
  test_spoiled_head();
}
