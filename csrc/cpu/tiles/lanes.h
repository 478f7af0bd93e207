// Numbers by sixteen, the columns of a tile: read from memory, rounded to bfloat16, and put into the order of tiles.
#pragma once
#include "cpu/tiles/matrix.h"
#include "cpu/tiles/tiles.h"

namespace rearec::tiles {
namespace {

#if defined(__AVX512BF16__)

typedef __m512 Sixteen;
typedef __m512i Line;  // of a tile: 32 bfloat16, or 16 pairs of them

REAREC_INLINE Sixteen zeros() { return _mm512_setzero_ps(); }
REAREC_INLINE Sixteen load_sixteen(const float* aligned) { return _mm512_load_ps(aligned); }

// Values first .. first + 15 of a row that has `width` of them; beyond it zeros.
REAREC_INLINE Sixteen load_values(const Matrix& m, int64_t row, int64_t first, int64_t width) {
  const int64_t count = width - first, offset = row * m.row_stride + first;
  const __mmask16 mask = count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
  if (!m.is_bfloat16) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(m.values) + offset);
  const __m256i half = _mm256_maskz_loadu_epi16(mask, static_cast<const bfloat16*>(m.values) + offset);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Nearest bfloat16, and what they leave over. Denormals become 0.
REAREC_INLINE Line rounded(Sixteen low, Sixteen high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }
REAREC_INLINE Line rounded_rest(Line large, Sixteen low, Sixteen high) {
  const __m512i of_low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(large));
  const __m512i of_high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(large, 1));
  return rounded(_mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(of_low, 16))),
                 _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_slli_epi32(of_high, 16))));
}

REAREC_INLINE void store_line(void* aligned, Line line) { _mm512_store_si512(aligned, line); }
REAREC_INLINE Line load_line(const void* aligned) { return _mm512_load_si512(aligned); }

// Pairs of the first and the second sixteen.
REAREC_INLINE Line paired(Line x) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, x);
}

// Pairs of the first, and of the last, four numbers of every eight of two lines.
REAREC_INLINE Line paired_first(Line even, Line odd) { return _mm512_unpacklo_epi16(even, odd); }
REAREC_INLINE Line paired_last(Line even, Line odd) { return _mm512_unpackhi_epi16(even, odd); }

// Of 16 lines of 16 values of 32 bits.
REAREC_INLINE void transpose(Line* r) {
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

#else

struct Sixteen {
  alignas(64) float x[16];
};
struct Line {
  alignas(64) uint16_t half[32];
};

REAREC_INLINE Sixteen zeros() { return {}; }
REAREC_INLINE Sixteen load_sixteen(const float* p) {
  Sixteen all;
  std::memcpy(all.x, p, sizeof all.x);
  return all;
}

template <class T>
REAREC_INLINE Sixteen load_values(const T* p, int64_t count) {
  Sixteen all = {};
  for (int64_t lane = 0; lane < 16 && lane < count; lane += kLanes) store(all.x + lane, load_part(p + lane, count - lane));
  return all;
}
REAREC_INLINE Sixteen load_values(const Matrix& m, int64_t row, int64_t first, int64_t width) {
  const int64_t offset = row * m.row_stride + first;
  return m.is_bfloat16 ? load_values(static_cast<const bfloat16*>(m.values) + offset, width - first)
                       : load_values(static_cast<const float*>(m.values) + offset, width - first);
}

REAREC_INLINE Line rounded(const Sixteen& low, const Sixteen& high) {
  bfloat16 halves[32];
  for (int lane = 0; lane < 16; lane += kLanes) {
    store(halves + lane, load(low.x + lane));
    store(halves + 16 + lane, load(high.x + lane));
  }
  Line line;
  std::memcpy(line.half, halves, sizeof halves);
  return line;
}
REAREC_INLINE Line rounded_rest(const Line& large, const Sixteen& low, const Sixteen& high) {
  bfloat16 halves[32];
  std::memcpy(halves, large.half, sizeof halves);
  Sixteen rest_low, rest_high;
  for (int lane = 0; lane < 16; lane += kLanes) {
    store(rest_low.x + lane, load(low.x + lane) - load(halves + lane));
    store(rest_high.x + lane, load(high.x + lane) - load(halves + 16 + lane));
  }
  return rounded(rest_low, rest_high);
}

REAREC_INLINE void store_line(void* to, const Line& line) { std::memcpy(to, line.half, sizeof line.half); }
REAREC_INLINE Line load_line(const void* from) {
  Line line;
  std::memcpy(line.half, from, sizeof line.half);
  return line;
}

REAREC_INLINE Line paired(const Line& x) {
  Line line;
  for (int i = 0; i < 16; ++i) {
    line.half[2 * i] = x.half[i];
    line.half[2 * i + 1] = x.half[16 + i];
  }
  return line;
}

REAREC_INLINE Line paired_within_eights(const Line& even, const Line& odd, int first) {
  Line line;
  for (int eight = 0; eight < 32; eight += 8)
    for (int i = 0; i < 4; ++i) {
      line.half[eight + 2 * i] = even.half[eight + first + i];
      line.half[eight + 2 * i + 1] = odd.half[eight + first + i];
    }
  return line;
}
REAREC_INLINE Line paired_first(const Line& even, const Line& odd) { return paired_within_eights(even, odd, 0); }
REAREC_INLINE Line paired_last(const Line& even, const Line& odd) { return paired_within_eights(even, odd, 4); }

REAREC_INLINE void transpose(Line* r) {
  uint32_t from[16][16], to[16][16];
  for (int i = 0; i < 16; ++i) std::memcpy(from[i], r[i].half, sizeof from[i]);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) to[j][i] = from[i][j];
  for (int i = 0; i < 16; ++i) std::memcpy(r[i].half, to[i], sizeof to[i]);
}

#endif

// 32 numbers as bfloat16, in kParts parts.
template <int kParts>
struct Words {
  Line part[kParts];

  REAREC_INLINE Words(const Sixteen& low, const Sixteen& high) {
    part[0] = rounded(low, high);
    if (kParts == 2) part[kParts - 1] = rounded_rest(part[0], low, high);
  }
};

}  // namespace
}  // namespace rearec::tiles
