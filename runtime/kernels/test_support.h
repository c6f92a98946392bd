// What the tests of the kernels share: failures are counted, inputs are drawn, errors are measured.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "parallel.h"

inline int failures = 0;

inline void check(bool ok, const char* what, double value) {
  if (!ok) ++failures;
  if (!ok) std::printf("FAILED %s: %.3g\n", what, value);
}

// Exactly as long as asked for, on the heap: a sanitizer sees a read of one element too many.
using Floats = std::unique_ptr<float[]>;

inline std::mt19937 random_bits(1);

inline Floats normal(int64_t count, float scale, float shift = 0) {
  std::normal_distribution<float> draw;
  Floats values(new float[count]);
  for (int64_t i = 0; i < count; ++i) values[i] = draw(random_bits) * scale + shift;
  return values;
}

// Two threads, split at an uneven place.
inline void two_threads(int64_t count, mvgpt::Range range, const void* arguments) {
  const int64_t middle = count / 3;
  std::thread other(range, arguments, 0, middle);
  range(arguments, middle, count);
  other.join();
}

inline double relative_rms(const float* got, const std::vector<double>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (got[i] - expected[i]) * (got[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

void test_language_model();  // test_language_model.cpp
