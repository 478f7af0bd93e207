// Philox4x32-10 on as many counters at a time as a vector has lanes; compilers make slow 64-bit products of it otherwise.
#pragma once
#include "cpu/simd.h"
#include "philox.h"

namespace rearec {
namespace {

// The 64-bit products of 32-bit lanes with a factor, in halves.
REAREC_INLINE void multiply_wide(vuint a, uint32_t factor, vuint& high, vuint& low) {
#if defined(__AVX512F__)
  const __m512i x = (__m512i)a, f = _mm512_set1_epi64(factor);
  const __m512i even = _mm512_mul_epu32(x, f), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), f);
  low = (vuint)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  high = (vuint)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#elif defined(__AVX2__)
  const __m256i x = (__m256i)a, f = _mm256_set1_epi64x(factor);
  const __m256i even = _mm256_mul_epu32(x, f), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), f);
  low = (vuint)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  high = (vuint)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
#else
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t product = uint64_t{factor} * a[i];
    high[i] = static_cast<uint32_t>(product >> 32);
    low[i] = static_cast<uint32_t>(product);
  }
#endif
}

// Turns the counters c into the four output words of each lane.
REAREC_INLINE void philox(uint64_t seed, vuint (&c)[4]) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    vuint high0, low0, high1, low1;
    multiply_wide(c[0], kPhiloxFactor0, high0, low0);
    multiply_wide(c[2], kPhiloxFactor1, high1, low1);
    c[0] = high1 ^ c[1] ^ k0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ k1;
    c[3] = low0;
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
}

REAREC_INLINE vuint lane_numbers() {
  vuint lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

}  // namespace
}  // namespace rearec
