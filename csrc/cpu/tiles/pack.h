// From rows of numbers in memory to strips (strips.h), and back from tiles of sums to rows.
#pragma once
#include "cpu/tiles/losses.h"
#include "cpu/tiles/strips.h"

namespace rearec::tiles {
namespace {

REAREC_INLINE __mmask16 lanes(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Values first .. first + 15 of a row that has `width` of them; beyond it zeros.
REAREC_INLINE __m512 load_values(const Matrix& m, int64_t row, int64_t first, int64_t width) {
  const __mmask16 mask = lanes(width - first);
  const int64_t offset = row * m.row_stride + first;
  if (!m.is_bfloat16) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(m.values) + offset);
  const __m256i half = _mm256_maskz_loadu_epi16(mask, static_cast<const bfloat16*>(m.values) + offset);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

REAREC_INLINE __m512i to_bfloat16(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// 32 numbers as bfloat16, in kParts parts.
template <int kParts>
struct Words {
  __m512i part[kParts];

  REAREC_INLINE Words(__m512 low, __m512 high) {
    part[0] = to_bfloat16(low, high);
    if (kParts == 2) {
      const __m512i low_part = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(part[0]));
      const __m512i high_part = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(part[0], 1));
      part[kParts - 1] =
          to_bfloat16(_mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(low_part, 16))),
                      _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_slli_epi32(high_part, 16))));
    }
  }
};

// Of 16 rows of 16 values of 32 bits.
REAREC_INLINE void transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// The rows first .. first + 31 * apart of a matrix; those from `count` on are zeros.
struct Rows {
  const Matrix& matrix;
  int64_t first, apart, count, width;

  REAREC_INLINE __m512 load(int64_t i, int64_t column) const {
    return i < count ? load_values(matrix, first + i * apart, column, width) : _mm512_setzero_ps();
  }
};

// A strip whose depth is along the rows: of a first operand with these rows, or (kColumns) of a second operand of which
// they are the columns. Steps follow each other.
template <int kParts, bool kColumns>
void pack_along(const Rows& rows, int64_t steps, bfloat16* strip) {
  for (int64_t s = 0; s < steps; ++s, strip += kStep<kParts>)
    for (int64_t tile = 0; tile < 2; ++tile) {
      __m512i words[kParts][kTileRows];
      for (int64_t i = 0; i < kTileRows; ++i) {
        const int64_t row = kTileRows * tile + i, column = kTileDepth * s;
        const Words<kParts> both(rows.load(row, column), rows.load(row, column + 16));
        for (int p = 0; p < kParts; ++p) words[p][i] = both.part[p];
      }
      for (int p = 0; p < kParts; ++p) {
        if (kColumns) transpose(words[p]);
        for (int64_t i = 0; i < kTileRows; ++i)
          _mm512_store_si512(strip + (2 * p + tile) * kTileValues + kTileDepth * i, words[p][i]);
      }
    }
}

// One step of the strips whose depth is across the rows, each strip 32 of their values wide: of a second operand, or
// (kTransposed) of a first operand that is the transpose of these rows. Strips begin `strip_stride` values apart.
template <int kParts, bool kTransposed>
void pack_across(const Rows& rows, int64_t strips, int64_t strip_stride, bfloat16* step) {
  const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int64_t strip = 0; strip < strips; ++strip, step += strip_stride)
    for (int64_t tile = 0; tile < 2; ++tile) {
      __m512i words[kParts][kTileRows];
      for (int64_t i = 0; i < kTileRows; ++i) {
        const int64_t column = kBlock * strip + kTileRows * tile;
        const Words<kParts> both(rows.load(2 * i, column), rows.load(2 * i + 1, column));
        for (int p = 0; p < kParts; ++p) words[p][i] = _mm512_permutexvar_epi16(pairs, both.part[p]);
      }
      for (int p = 0; p < kParts; ++p) {
        if (kTransposed) transpose(words[p]);
        for (int64_t i = 0; i < kTileRows; ++i)
          _mm512_store_si512(step + (2 * p + tile) * kTileValues + kTileDepth * i, words[p][i]);
      }
    }
}

// A block of sums [32][32] as two operands of further products: the step of a first operand with its rows, and the step
// of a second operand with its rows in depth. The latter's columns are in another order, see column_of.
template <int kParts>
REAREC_INLINE void pack_sums(const float* sums, bfloat16* first, bfloat16* second) {
  for (int64_t i = 0; i < kBlock; i += 2) {
    const float* left = sums + i / kTileRows * 2 * kTileRows * kTileRows + i % kTileRows * kTileRows;
    const float* right = left + kTileRows * kTileRows;
    const Words<kParts> even(_mm512_load_ps(left), _mm512_load_ps(right));
    const Words<kParts> odd(_mm512_load_ps(left + kTileRows), _mm512_load_ps(right + kTileRows));
    for (int p = 0; p < kParts; ++p) {
      bfloat16* row = first + (2 * p + i / kTileRows) * kTileValues + i % kTileRows * kTileDepth;
      _mm512_store_si512(row, even.part[p]);
      _mm512_store_si512(row + kTileDepth, odd.part[p]);
      bfloat16* pair = second + 2 * p * kTileValues + i / 2 * kTileDepth;
      _mm512_store_si512(pair, _mm512_unpacklo_epi16(even.part[p], odd.part[p]));
      _mm512_store_si512(pair + kTileValues, _mm512_unpackhi_epi16(even.part[p], odd.part[p]));
    }
  }
}

// Which column of the sums column c of tile `tile` of pack_sums' second step is: unpacking stays within 128 bits.
constexpr int64_t column_of(int64_t tile, int64_t c) { return c / 4 * 8 + tile * 4 + c % 4; }

}  // namespace
}  // namespace rearec::tiles
