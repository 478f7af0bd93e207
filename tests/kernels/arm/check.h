// Random inputs, and comparison with what was computed in float64.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cpu/simd.h"

inline int failures = 0;

// The largest difference may be `tolerance` times the largest expected value.
template <class Got>
void expect_close(const char* what, const Got& got, const std::vector<double>& want, double tolerance) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - want[i]);
    difference = error <= difference ? difference : error;  // a NaN stays
    largest = std::fmax(largest, std::fabs(want[i]));
  }
  if (difference <= tolerance * largest) return;
  std::printf("%s: off by %g of %g, expected at most %g of it\n", what, difference, largest, tolerance);
  ++failures;
}

inline void expect(const char* what, bool holds) {
  if (holds) return;
  std::printf("%s\n", what);
  ++failures;
}

// Numbers in [-1, 1), the same in every run.
inline double random_number() {
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(state >> 33) / 1073741824.0 - 1.0;
}

inline std::vector<float> random_floats(int64_t count, double scale = 1) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(scale * random_number());
  return values;
}

// float32 values in the dtype T, and back.
template <class T>
std::vector<T> rounded(const std::vector<float>& values) {
  std::vector<T> to(values.size());
  for (size_t i = 0; i < values.size(); ++i) rearec::from_float(values[i], &to[i]);
  return to;
}
template <class T>
std::vector<double> widened(const std::vector<T>& values) {
  std::vector<double> to(values.size());
  for (size_t i = 0; i < values.size(); ++i) to[i] = static_cast<double>(rearec::to_float(values[i]));
  return to;
}

void check_attention();
void check_layer_norm();
void check_losses();
void check_retrieval();
void check_vectors();
