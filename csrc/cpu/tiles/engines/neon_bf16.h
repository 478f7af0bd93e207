// Products of strips by Arm's products of pairs of bfloat16 (BFDOT: Armv8.6, Graviton 3, Apple from M2 on): a line of the
// second operand's tile, 16 columns of a pair of depths, times a pair of a row of the first.
//
// BFDOT rounds otherwise than a chain of float32: the two products of a pair are added, and their sum to what is there,
// each time to the odd neighbour, which is off by less than 2^-23 of the result (to the nearest: 2^-24), and denormals are
// taken and left as zeros. Of n products, each is in at most n / 2 + 1 such roundings, and no more than 2 n numbers below
// 2^-126 are lost: within the (n + 32) 2^-23 and (n + 32) 2^-123 that item_tiles.cpp allows any engine.
#pragma once
#include <arm_neon.h>

#include "cpu/tiles/strips.h"

namespace rearec::tiles {
namespace {

struct Tiles {
  Tiles() {}  // nothing has to be set up
};

constexpr int kRowsAtOnce = 8, kVectorsAtOnce = 2;  // 16 registers of sums
constexpr int kPairsAtOnce = 4;                     // of a row, in a register

REAREC_INLINE bfloat16x8_t load_pairs(const bfloat16* p) {
  return vreinterpretq_bf16_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(p)));
}

typedef float32x4_t SumsAtOnce[kRowsAtOnce][kVectorsAtOnce];

// Adds, for kRowsAtOnce rows, the products of pair kPair of kPairsAtOnce with a part of a line of the second operand.
template <int kPair>
REAREC_INLINE void add_pair(const bfloat16x8_t (&rows)[kRowsAtOnce], const bfloat16* line, SumsAtOnce& sums) {
  bfloat16x8_t columns[kVectorsAtOnce];
  for (int v = 0; v < kVectorsAtOnce; ++v) columns[v] = load_pairs(line + 8 * v);
  for (int i = 0; i < kRowsAtOnce; ++i)
    for (int v = 0; v < kVectorsAtOnce; ++v) sums[i][v] = vbfdotq_laneq_f32(sums[i][v], columns[v], rows[i], kPair);
}

// Adds the product of some rows of a tile of the first operand and some columns of a tile of the second.
REAREC_INLINE void add_product(const bfloat16* first, const bfloat16* second, SumsAtOnce& sums) {
  for (int pair = 0; pair < kTileDepth / 2; pair += kPairsAtOnce, second += kPairsAtOnce * kTileDepth) {
    bfloat16x8_t rows[kRowsAtOnce];
    for (int i = 0; i < kRowsAtOnce; ++i) rows[i] = load_pairs(first + i * kTileDepth + 2 * pair);
    add_pair<0>(rows, second, sums);
    add_pair<1>(rows, second + kTileDepth, sums);
    add_pair<2>(rows, second + 2 * kTileDepth, sums);
    add_pair<3>(rows, second + 3 * kTileDepth, sums);
  }
}

template <int kParts, bool kAdd, int kColumnTiles = 2>
void multiply_strips(const bfloat16* first, const bfloat16* second, int64_t steps, float* sums) {
  constexpr int64_t kSecond = kColumnTiles * kTileValues;  // of one part in a step
  constexpr int64_t kColumns = 4 * kVectorsAtOnce;
  for (int64_t column = 0; column < kColumnTiles * kTileRows; column += kColumns)
    for (int64_t row = 0; row < kBlock; row += kRowsAtOnce) {
      SumsAtOnce total;
      for (int i = 0; i < kRowsAtOnce; ++i)
        for (int v = 0; v < kVectorsAtOnce; ++v)
          total[i][v] = kAdd ? vld1q_f32(sums + sum_index<kColumnTiles>(row + i, column + 4 * v)) : vdupq_n_f32(0);
      const bfloat16* a = first + row * kTileDepth;
      const bfloat16* b = second + column / kTileRows * kTileValues + column % kTileRows * 2;
      for (int64_t s = 0; s < steps; ++s, a += kStep<kParts>, b += kParts * kSecond) {
        if (kParts == 2) add_product(a + 2 * kTileValues, b, total);
        add_product(a, b, total);
        if (kParts == 2) add_product(a, b + kSecond, total);
      }
      for (int i = 0; i < kRowsAtOnce; ++i)
        for (int v = 0; v < kVectorsAtOnce; ++v)
          vst1q_f32(sums + sum_index<kColumnTiles>(row + i, column + 4 * v), total[i][v]);
    }
}

}  // namespace
}  // namespace rearec::tiles
