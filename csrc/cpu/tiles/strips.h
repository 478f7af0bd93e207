// Operands of products as strips: 32 rows (or columns) of a matrix over the whole depth of a product, in the order in
// which the tiles are read.
//
// A step of a strip covers 32 of the depth: two tiles, as tiles.h describes them for the first and for the second
// operand. A number is one bfloat16, or with kParts = 2 two of them, the second what the first leaves over (some 16
// bits of the number in all); a step then holds the tiles of the first parts, then those of the second parts.
//
// What differs from machine to machine is an engine: how two strips are multiplied (engines/), and how 16 numbers are
// rounded, packed and turned (lanes.h). An engine defines
//
//   class Tiles                                  what a thread has to hold while it multiplies
//   multiply_strips<kParts, kAdd, kColumnTiles>  sums = first * second, or with kAdd added to what is there
//
// with `second` 32 columns wide, or 16 with one kColumnTiles, and sums as sum_index says. Of two parts each, the product
// of the two second ones is left out: it is below the rounding of the others' sum.
#pragma once
#include "cpu/tiles/tiles.h"

namespace rearec::tiles {
namespace {

template <int kParts>
constexpr int64_t kStep = 2 * kParts * kTileValues;  // bfloat16 values

constexpr int64_t kSums = kBlock * kBlock;  // of a product of two strips: four tiles, row by row of tiles

}  // namespace
}  // namespace rearec::tiles

#if defined(__AMX_BF16__)
#include "cpu/tiles/engines/amx.h"
#elif defined(__AVX512BF16__)
#include "cpu/tiles/engines/avx512_bf16.h"
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "cpu/tiles/engines/neon_bf16.h"
#else
#include "cpu/tiles/engines/portable.h"
#endif
