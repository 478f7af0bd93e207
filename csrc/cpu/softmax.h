// What softmax losses compute per vector of logits, whichever way the logits come: from a chunk in memory
// (csrc/cpu/losses.cpp) or from tiles (csrc/cpu/tiles).
#pragma once
#include "cpu/losses.h"
#include "cpu/simd.h"
#include "kernel_limits.h"

namespace rearec {
namespace {

// e^x for x up to 88, relative error below 2e-7 near 0; NaN stays NaN. Under -64 it is exactly 0: probabilities that small
// relative to a row's largest add nothing, and what is built from the others stays clear of denormals, in the loops here
// and in the matrix products that follow.
REAREC_INLINE vfloat exp_or_zero(vfloat x) {
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
  const vfloat magic = broadcast(12582912.0f), log2_e = broadcast(1.44269504088896341f);
  const vfloat shifted = x * log2_e + magic;
  const vfloat r = x * log2_e - (shifted - magic);
  vfloat p = broadcast(1.3264727253e-3f);
  p = p * r + 9.6715127859e-3f;
  p = p * r + 5.5507337445e-2f;
  p = p * r + 2.4022242083e-1f;
  p = p * r + 6.9314697760e-1f;
  p = p * r + 1.0f;
  const vuint exponent = ((vuint)shifted << 23) + (vuint)broadcast(1.0f);  // may overflow where the result is 0
  return x < -64.0f ? vfloat{} : p * (vfloat)exponent;
}
REAREC_INLINE float exp_or_zero(float x) { return exp_or_zero(broadcast(x))[0]; }

// The steps of one user: T of them, or as many as `steps` says when T is 0.
template <int T>
struct Steps {
  static constexpr int kMax = T ? T : kMaxEnsembleStates;
  int steps;
  REAREC_INLINE int count() const { return T ? T : steps; }
};

// The logits of all steps in kLanes columns.
template <int T>
struct Columns {
  vfloat z[Steps<T>::kMax];

  REAREC_INLINE void load(const float* rows, int64_t stride, const Steps<T>& steps) {
    for (int t = 0; t < steps.count(); ++t) z[t] = rearec::load(rows + t * stride);
  }
  REAREC_INLINE vfloat mean(const Steps<T>& steps) const {
    vfloat total{};
    for (int t = 1; t < steps.count(); ++t) total += z[t] - z[0];
    return z[0] + total * (1.0f / static_cast<float>(steps.count()));
  }
  // Per step the sum of z_i - z_j over the other steps j (official form) or over the later ones (paper's), by way of
  // the differences to step 0: steps that agree give exact zeros.
  template <bool kPaper>
  REAREC_INLINE void spread(vfloat* u, const Steps<T>& steps) const {
    vfloat total{};
    for (int t = steps.count() - 1; t >= 0; --t) {
      u[t] = z[t] - z[0];
      if (kPaper) {
        const vfloat later = total;
        total += u[t];
        u[t] = u[t] * static_cast<float>(steps.count() - 1 - t) - later;
      } else {
        total += u[t];
      }
    }
    if (!kPaper)
      for (int t = 0; t < steps.count(); ++t) u[t] = u[t] * static_cast<float>(steps.count()) - total;
  }
};

}  // namespace
}  // namespace rearec
