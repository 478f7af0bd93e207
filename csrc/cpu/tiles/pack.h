// From rows of numbers in memory to strips (strips.h), and back from tiles of sums to rows.
#pragma once
#include "cpu/tiles/lanes.h"
#include "cpu/tiles/strips.h"

namespace rearec::tiles {
namespace {

// The rows first .. first + 31 * apart of a matrix; those from `count` on are zeros.
struct Rows {
  const Matrix& matrix;
  int64_t first, apart, count, width;

  REAREC_INLINE Sixteen load(int64_t i, int64_t column) const {
    return i < count ? load_values(matrix, first + i * apart, column, width) : zeros();
  }
};

// A strip whose depth is along the rows: of a first operand with these rows, or (kColumns) of a second operand of which
// they are the columns. Steps follow each other.
template <int kParts, bool kColumns>
void pack_along(const Rows& rows, int64_t steps, bfloat16* strip) {
  for (int64_t s = 0; s < steps; ++s, strip += kStep<kParts>)
    for (int64_t tile = 0; tile < 2; ++tile) {
      Line words[kParts][kTileRows];
      for (int64_t i = 0; i < kTileRows; ++i) {
        const int64_t row = kTileRows * tile + i, column = kTileDepth * s;
        const Words<kParts> both(rows.load(row, column), rows.load(row, column + 16));
        for (int p = 0; p < kParts; ++p) words[p][i] = both.part[p];
      }
      for (int p = 0; p < kParts; ++p) {
        if (kColumns) transpose(words[p]);
        for (int64_t i = 0; i < kTileRows; ++i)
          store_line(strip + (2 * p + tile) * kTileValues + kTileDepth * i, words[p][i]);
      }
    }
}

// One step of the strips whose depth is across the rows, each strip 32 of their values wide: of a second operand, or
// (kTransposed) of a first operand that is the transpose of these rows. Strips begin `strip_stride` values apart.
template <int kParts, bool kTransposed>
void pack_across(const Rows& rows, int64_t strips, int64_t strip_stride, bfloat16* step) {
  for (int64_t strip = 0; strip < strips; ++strip, step += strip_stride)
    for (int64_t tile = 0; tile < 2; ++tile) {
      Line words[kParts][kTileRows];
      for (int64_t i = 0; i < kTileRows; ++i) {
        const int64_t column = kBlock * strip + kTileRows * tile;
        const Words<kParts> both(rows.load(2 * i, column), rows.load(2 * i + 1, column));
        for (int p = 0; p < kParts; ++p) words[p][i] = paired(both.part[p]);
      }
      for (int p = 0; p < kParts; ++p) {
        if (kTransposed) transpose(words[p]);
        for (int64_t i = 0; i < kTileRows; ++i)
          store_line(step + (2 * p + tile) * kTileValues + kTileDepth * i, words[p][i]);
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
    const Words<kParts> even(load_sixteen(left), load_sixteen(right));
    const Words<kParts> odd(load_sixteen(left + kTileRows), load_sixteen(right + kTileRows));
    for (int p = 0; p < kParts; ++p) {
      bfloat16* row = first + (2 * p + i / kTileRows) * kTileValues + i % kTileRows * kTileDepth;
      store_line(row, even.part[p]);
      store_line(row + kTileDepth, odd.part[p]);
      bfloat16* pair = second + 2 * p * kTileValues + i / 2 * kTileDepth;
      store_line(pair, paired_first(even.part[p], odd.part[p]));
      store_line(pair + kTileValues, paired_last(even.part[p], odd.part[p]));
    }
  }
}

// Which column of the sums column c of tile `tile` of pack_sums' second step is: unpacking stays within 128 bits.
constexpr int64_t column_of(int64_t tile, int64_t c) { return c / 4 * 8 + tile * 4 + c % 4; }

}  // namespace
}  // namespace rearec::tiles
