// Operands of products as strips: 32 rows (or columns) of a matrix over the whole depth of a product, in the order in
// which the tiles are read.
//
// A step of a strip covers 32 of the depth: two tiles, as tiles.h describes them for the first and for the second
// operand. A number is one bfloat16, or with kParts = 2 two of them, the second what the first leaves over (some 16
// bits of the number in all); a step then holds the tiles of the first parts, then those of the second parts.
#pragma once
#include "cpu/tiles/tiles.h"

namespace rearec::tiles {
namespace {

template <int kParts>
constexpr int64_t kStep = 2 * kParts * kTileValues;  // bfloat16 values

constexpr int64_t kSums = kBlock * kBlock;  // of a product of two strips: four tiles, row by row of tiles

// sums = first * second, or with kAdd added to what is there. Of two parts each, the product of the two second ones is
// left out: it is below the rounding of the others' sum.
template <int kParts, bool kAdd>
REAREC_INLINE void multiply_strips(const bfloat16* first, const bfloat16* second, int64_t steps, float* sums) {
  tiles_read_memory();
  constexpr int64_t kRowBytes = 64, kSumsTile = kTileRows * kTileRows;
  if (kAdd) {
    _tile_loadd(0, sums, kRowBytes);
    _tile_loadd(1, sums + kSumsTile, kRowBytes);
    _tile_loadd(2, sums + 2 * kSumsTile, kRowBytes);
    _tile_loadd(3, sums + 3 * kSumsTile, kRowBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s, first += kStep<kParts>, second += kStep<kParts>) {
    if (kParts == 2) {
      _tile_loadd(4, first + 2 * kTileValues, kRowBytes);
      _tile_loadd(5, first + 3 * kTileValues, kRowBytes);
      _tile_loadd(6, second, kRowBytes);
      _tile_loadd(7, second + kTileValues, kRowBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(4, first, kRowBytes);
      _tile_loadd(5, first + kTileValues, kRowBytes);
    } else {
      _tile_loadd(4, first, kRowBytes);
      _tile_loadd(6, second, kRowBytes);
      _tile_loadd(7, second + kTileValues, kRowBytes);
      _tile_loadd(5, first + kTileValues, kRowBytes);
    }
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    if (kParts == 2) {
      _tile_loadd(6, second + 2 * kTileValues, kRowBytes);
      _tile_loadd(7, second + 3 * kTileValues, kRowBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kRowBytes);
  _tile_stored(1, sums + kSumsTile, kRowBytes);
  _tile_stored(2, sums + 2 * kSumsTile, kRowBytes);
  _tile_stored(3, sums + 3 * kSumsTile, kRowBytes);
}

}  // namespace
}  // namespace rearec::tiles
