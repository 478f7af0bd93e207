// The values of one attention head as vectors: dot products with, and weighted sums of, rows of K and V.
#pragma once
#include "cpu/simd.h"
#include "kernel_limits.h"

namespace rearec {
namespace {

// head_dim values of one head, in registers when D is known at compile time, else (D = 0) on the stack.
template <int D>
struct HeadVector {
  static constexpr int kCount = D / kLanes;
  vfloat v[kCount];

  template <class T>
  REAREC_INLINE void load(const T* p, int) {
    for (int i = 0; i < kCount; ++i) v[i] = rearec::load(p + i * kLanes);
  }
  REAREC_INLINE void zero(int) {
    for (int i = 0; i < kCount; ++i) v[i] = vfloat{};
  }
  template <class T>
  REAREC_INLINE float dot(const T* p, int) const {
    vfloat even{}, odd{};
    int i = 0;
    for (; i + 1 < kCount; i += 2) {
      even += v[i] * rearec::load(p + i * kLanes);
      odd += v[i + 1] * rearec::load(p + (i + 1) * kLanes);
    }
    if (i < kCount) even += v[i] * rearec::load(p + i * kLanes);
    return sum(even + odd);
  }
  template <class T>
  REAREC_INLINE void add(float scale, const T* p, int) {
    const vfloat s = broadcast(scale);
    for (int i = 0; i < kCount; ++i) v[i] += s * rearec::load(p + i * kLanes);
  }
  template <class T>
  REAREC_INLINE void store(T* p, int) const {
    for (int i = 0; i < kCount; ++i) rearec::store(p + i * kLanes, v[i]);
  }
  template <class T>
  REAREC_INLINE void stream(T* p, int) const {
    for (int i = 0; i < kCount; ++i) rearec::stream(p + i * kLanes, v[i]);
  }
};

template <>
struct HeadVector<0> {
  float v[kMaxHeadDim];

  template <class T>
  void load(const T* p, int d) {
    for (int i = 0; i < d; ++i) v[i] = to_float(p[i]);
  }
  void zero(int d) {
    for (int i = 0; i < d; ++i) v[i] = 0;
  }
  template <class T>
  float dot(const T* p, int d) const {
    vfloat total{};
    int i = 0;
    for (; i + kLanes <= d; i += kLanes) total += rearec::load(v + i) * rearec::load(p + i);
    float rest = sum(total);
    for (; i < d; ++i) rest += v[i] * to_float(p[i]);
    return rest;
  }
  template <class T>
  void add(float scale, const T* p, int d) {
    for (int i = 0; i < d; ++i) v[i] += scale * to_float(p[i]);
  }
  template <class T>
  void store(T* p, int d) const {
    for (int i = 0; i < d; ++i) from_float(v[i], p + i);
  }
  template <class T>
  void stream(T* p, int d) const {
    store(p, d);
  }
};

// Heads taken together in one sweep over the slots, so that memory is read in order: as many as registers allow.
template <int D>
constexpr int heads_per_sweep() {
  return D > 0 && 2 * (D / kLanes) <= kRegisters / 2 ? 2 : 1;
}

}  // namespace
}  // namespace rearec
