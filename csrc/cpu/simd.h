// One vector of floats, as wide as the instruction set this file is compiled for, on GCC and Clang vector extensions.
//
// Everything here lives in an unnamed namespace: sources are compiled once per instruction set, and a shared inline
// symbol would let the linker keep the AVX-512 copy for every machine. For the same reason sources of csrc/cpu use no
// standard-library templates that leave code behind (vectors, sort, ...).
#pragma once
#include <cstdint>
#include <cstring>

#include "arithmetic.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace rearec {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#else
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
#endif

typedef float vfloat __attribute__((vector_size(4 * kLanes)));
typedef int32_t vint __attribute__((vector_size(4 * kLanes)));
typedef uint32_t vuint __attribute__((vector_size(4 * kLanes)));
typedef uint16_t vhalf __attribute__((vector_size(2 * kLanes)));

// The elements of a row of whole vectors.
constexpr int64_t padded(int64_t count) { return round_up(count, kLanes); }

struct bfloat16 {
  uint16_t bits;
};

#define REAREC_INLINE inline __attribute__((always_inline))
// Of what many instantiations of a template share: compiled once.
#define REAREC_OUTLINE inline __attribute__((noinline))

REAREC_INLINE float to_float(float x) { return x; }
REAREC_INLINE float to_float(bfloat16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

REAREC_INLINE void from_float(float x, float* to) { *to = x; }
REAREC_INLINE void from_float(float x, bfloat16* to) {  // round to nearest even, NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

REAREC_INLINE vfloat broadcast(float x) { return x - vfloat{}; }
REAREC_INLINE vint bits_of(vfloat x) { return (vint)x; }

REAREC_INLINE vfloat load(const float* p) {
  vfloat v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
REAREC_INLINE vfloat load(const bfloat16* p) {
  vhalf half;
  std::memcpy(&half, p, sizeof half);
  return (vfloat)(__builtin_convertvector(half, vuint) << 16);
}

// The first `count` lanes, fewer than there are, and zeros in the others.
REAREC_INLINE vfloat load_first(const float* p, int64_t count) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#else
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
#endif
}
REAREC_INLINE vfloat load_first(const bfloat16* p, int64_t count) {
#if defined(__AVX512F__)
  const __m256i half = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p);
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#else
  bfloat16 lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
#endif
}

REAREC_INLINE void store(float* p, vfloat v) { std::memcpy(p, &v, sizeof v); }
REAREC_INLINE void store(bfloat16* p, vfloat v) {
  const vuint bits = (vuint)v;
  const vuint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const vint is_nan = v != v;
  const vuint chosen = is_nan ? vuint{} + 0x7fc0 : rounded;
  const vhalf half = __builtin_convertvector(chosen, vhalf);
  std::memcpy(p, &half, sizeof half);
}

// The last vector of a row may be partial, of `count` floats, and then goes through memory; its missing lanes are 0.
template <class T>
REAREC_INLINE vfloat load_part(const T* p, int64_t count) {
  if (count >= kLanes) return load(p);
  T lanes[kLanes] = {};
  std::memcpy(lanes, p, count * sizeof(T));
  return load(lanes);
}
template <class T>
REAREC_INLINE void store_part(T* p, vfloat v, int64_t count) {
  if (count >= kLanes) return store(p, v);
  T lanes[kLanes];
  store(lanes, v);
  std::memcpy(p, lanes, count * sizeof(T));
}
// Store past the caches, for outputs larger than they are; p must be aligned to the vector. Needs stream_fence() after.
REAREC_INLINE void stream(float* p, vfloat v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX__)
  _mm256_stream_ps(p, (__m256)v);
#else
  store(p, v);
#endif
}
REAREC_INLINE void stream(bfloat16* p, vfloat v) { store(p, v); }
REAREC_INLINE void stream_fence() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

// Asks for the cache lines of these elements, into the second level.
template <class T>
REAREC_INLINE void prefetch(const T* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(p + i, 0, 2);
}

// For loops that wait for another thread.
REAREC_INLINE void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

REAREC_INLINE float sum(vfloat v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX__)
  const __m256 x = (__m256)v;
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

REAREC_INLINE float max(vfloat v) {  // NaN lanes may be dropped
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float m = v[0];
  for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
  return m;
#endif
}

constexpr float kInfinity = __builtin_inff();

REAREC_INLINE vfloat larger(vfloat a, vfloat b) { return a > b ? a : b; }  // of a NaN and a number, b

// A bit for every lane with a > b, or a >= b, from the first on; of a NaN none.
#if defined(__AVX512F__)
REAREC_INLINE unsigned lanes_above(vfloat a, vfloat b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
REAREC_INLINE unsigned lanes_not_below(vfloat a, vfloat b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ); }
#else
REAREC_INLINE unsigned bits_of_lanes(vint mask) {
#if defined(__AVX__)
  return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= (mask[i] & 1u) << i;
  return bits;
#endif
}
REAREC_INLINE unsigned lanes_above(vfloat a, vfloat b) { return bits_of_lanes(a > b); }
REAREC_INLINE unsigned lanes_not_below(vfloat a, vfloat b) { return bits_of_lanes(a >= b); }
#endif

// exp, relative error below 3e-7; exactly 0 under -87.3 (no denormals), infinity over 88.7, NaN stays NaN.
REAREC_INLINE vfloat exp(vfloat x) {
  const vint under = x < -87.3f;
  const vint over = x > 88.7f;
  vfloat y = under ? broadcast(-87.3f) : x;
  y = over ? broadcast(88.7f) : y;
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
  const vfloat magic = broadcast(12582912.0f);
  const vfloat shifted = y * 1.44269504088896341f + magic;
  const vint n = bits_of(shifted) - bits_of(magic);
  const vfloat whole = shifted - magic;
  vfloat r = y - whole * 0.693359375f;
  r = r + whole * 2.12194440e-4f;
  vfloat p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n reaches 128 at the top of the range.
  const vint half = n >> 1;
  const vfloat result = p * (vfloat)((half + 127) << 23) * (vfloat)((n - half + 127) << 23);
  return under ? vfloat{} : (over ? broadcast(kInfinity) : result);
}

REAREC_INLINE float exp(float x) { return exp(broadcast(x))[0]; }

// The cumulative distribution of N(0, 1); NaN stays NaN. The relative error is below 1e-6 plus 2^-24 x^2 / 2, by which
// the exponential's argument is rounded.
REAREC_INLINE vfloat normal_cdf(vfloat x) {
  const vfloat magnitude = x < 0.0f ? -x : x;
  // Phi(-m) = exp(-m^2 / 2) t P(t) with t = 1 / (1 + 0.34 m); P is fitted for m up to 13.3, where exp becomes 0.
  const vfloat t = 1.0f / (magnitude * 0.34f + 1.0f);
  vfloat p = broadcast(-0.026472028f);
  p = p * t + 0.14115071f;
  p = p * t - 0.27641529f;
  p = p * t + 0.20577881f;
  p = p * t - 0.047085386f;
  p = p * t + 0.11631446f;
  p = p * t + 0.11496748f;
  p = p * t + 0.13614239f;
  p = p * t + 0.13561885f;
  const vfloat tail = exp(x * x * -0.5f) * t * p;
  return x < 0.0f ? tail : 1.0f - tail;
}

}  // namespace
}  // namespace rearec
