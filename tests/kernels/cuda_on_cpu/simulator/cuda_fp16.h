// Stands in for CUDA's header of this name: half and its conversions, rounded to the nearest even.
#pragma once
#include "device_functions.h"
#include "vector_types.h"

struct __half_raw {
  unsigned short x;
};

namespace cuda_on_cpu {

inline unsigned short half_bits(float value) {
  const unsigned bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  if (magnitude > 0x7f800000u) return 0x7fff;  // the one NaN that CUDA makes
  if (magnitude >= 0x477ff000u) return static_cast<unsigned short>(sign | 0x7c00u);  // rounds to 65536 or more
  unsigned fraction, dropped;  // of the result in units of its last place, and how many bits are rounded away
  if (magnitude >= 0x38800000u) {
    fraction = magnitude - (112u << 23);  // another exponent bias
    dropped = 13;
  } else {  // subnormal: the last place is 2^-24
    const unsigned exponent = magnitude >> 23;
    if (exponent < 102) return static_cast<unsigned short>(sign);  // below 2^-25, half the smallest
    fraction = (magnitude & 0x7fffffu) | 0x800000u;
    dropped = 126 - exponent;
  }
  const unsigned half_unit = 1u << (dropped - 1), odd = fraction >> dropped & 1;
  return static_cast<unsigned short>(sign | (fraction + half_unit - 1 + odd) >> dropped);
}

inline float float_of_half(unsigned short half) {
  const unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
  if (exponent == 0) {  // subnormal: fraction * 2^-24 is exact
    return __uint_as_float(__float_as_uint(static_cast<float>(fraction) * 0x1p-24f) | sign);
  }
  return __uint_as_float(sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13);
}

}  // namespace cuda_on_cpu

struct __half {
  __half() = default;
  __half(float value) : bits(cuda_on_cpu::half_bits(value)) {}
  constexpr __half(__half_raw raw) : bits(raw.x) {}
  constexpr operator __half_raw() const { return {bits}; }
  // Implicit in CUDA. Here it would turn CUDA's half arithmetic, which rounds every result, into float arithmetic.
  explicit operator float() const { return cuda_on_cpu::float_of_half(bits); }

  unsigned short bits;
};

struct alignas(4) __half2 {
  __half x, y;
  __half2() = default;
  constexpr __half2(__half x, __half y) : x(x), y(y) {}
};

using half = __half;
using half2 = __half2;

inline unsigned short __half_as_ushort(__half x) { return static_cast<__half_raw>(x).x; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline float __low2float(__half2 x) { return __half2float(x.x); }
inline float __high2float(__half2 x) { return __half2float(x.y); }
inline float2 __half22float2(__half2 x) { return {__low2float(x), __high2float(x)}; }
inline __half2 __float22half2_rn(float2 x) { return {x.x, x.y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float2half2_rn(float x) { return {x, x}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
