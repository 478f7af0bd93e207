// Tiles: the operands of products of bfloat16 matrices with float32 sums, as the tile registers of Intel AMX want them.
//
// A tile is 16 rows of 64 bytes. Of a product's operands the first lies row by row, 32 values deep; of the second, 16
// columns and 32 deep, each pair of consecutive depths lies together: value (depth, column) at
// [depth / 2][column][depth % 2]. Such a tile is 1 KiB, and tiles of one column block follow each other in depth.
//
// Everything here lives in an unnamed namespace, as csrc/cpu/simd.h says why.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/simd.h"

namespace rearec::tiles {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileDepth = 32;                       // bfloat16 values
constexpr int kTileValues = kTileRows * kTileDepth;  // of a tile of bfloat16
constexpr int kBlock = 2 * kTileRows;                // rows and columns of a block of four tiles of sums
constexpr int64_t kSumsTile = kTileRows * kTileRows;

// Where row and column are in a block of sums, tile by tile, `kColumnTiles` of them beside each other.
template <int kColumnTiles = 2>
REAREC_INLINE constexpr int64_t sum_index(int64_t row, int64_t column) {
  return (row / kTileRows * kColumnTiles + column / kTileRows) * kSumsTile + row % kTileRows * kTileRows +
         column % kTileRows;
}

}  // namespace
}  // namespace rearec::tiles
