// Products of strips by AVX-512's products of pairs of bfloat16 (AMD from Zen 4 on, Intel from Cooper Lake on): a line of
// the second operand's tile, 16 columns of a pair of depths, times a pair of a row of the first.
#pragma once
#include <immintrin.h>

#include "cpu/tiles/strips.h"

namespace rearec::tiles {
namespace {

struct Tiles {
  Tiles() {}  // nothing has to be set up
};

// Adds the product of kRows rows of a tile of the first operand and kColumnTiles tiles of the second.
template <int kRows, int kColumnTiles>
REAREC_INLINE void add_product(const bfloat16* first, const bfloat16* second, __m512 (&sums)[kColumnTiles][kRows]) {
  for (int pair = 0; pair < kTileDepth / 2; ++pair) {
    __m512bh columns[kColumnTiles];
#pragma GCC unroll 2
    for (int t = 0; t < kColumnTiles; ++t)
      columns[t] = (__m512bh)_mm512_load_si512(second + t * kTileValues + kTileDepth * pair);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      int32_t two;
      std::memcpy(&two, first + i * kTileDepth + 2 * pair, sizeof two);
      const __m512bh row = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 2
      for (int t = 0; t < kColumnTiles; ++t) sums[t][i] = _mm512_dpbf16_ps(sums[t][i], row, columns[t]);
    }
  }
}

template <int kParts, bool kAdd, int kColumnTiles = 2>
REAREC_INLINE void multiply_strips(const bfloat16* first, const bfloat16* second, int64_t steps, float* sums) {
  constexpr int kRows = kTileRows / kColumnTiles;         // 16 registers of sums
  constexpr int64_t kSecond = kColumnTiles * kTileValues;  // of one part in a step
  for (int64_t row = 0; row < kBlock; row += kRows) {
    __m512 total[kColumnTiles][kRows];
#pragma GCC unroll 2
    for (int t = 0; t < kColumnTiles; ++t)
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
        total[t][i] = kAdd ? _mm512_load_ps(sums + sum_index<kColumnTiles>(row + i, t * kTileRows)) : _mm512_setzero_ps();
    const bfloat16 *a = first + row * kTileDepth, *b = second;
    for (int64_t s = 0; s < steps; ++s, a += kStep<kParts>, b += kParts * kSecond) {
      if (kParts == 2) add_product<kRows, kColumnTiles>(a + 2 * kTileValues, b, total);
      add_product<kRows, kColumnTiles>(a, b, total);
      if (kParts == 2) add_product<kRows, kColumnTiles>(a, b + kSecond, total);
    }
#pragma GCC unroll 2
    for (int t = 0; t < kColumnTiles; ++t)
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) _mm512_store_ps(sums + sum_index<kColumnTiles>(row + i, t * kTileRows), total[t][i]);
  }
}

}  // namespace
}  // namespace rearec::tiles
