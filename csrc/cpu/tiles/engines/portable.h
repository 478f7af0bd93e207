// Products of strips on any processor, and with the sums of AMX: Intel's manual lets a tile instruction sum the products
// of the first numbers of all pairs, and of the second ones, each by fused multiply-adds from 0, and then adds both to
// what is there. Where the compiler has no fused multiply-add, every product is rounded before it is added.
//
// Numbers become float32 once per step of the strips, and the rest is a product of float32 matrices.
#pragma once
#include "cpu/tiles/strips.h"

namespace rearec::tiles {
namespace {

struct Tiles {
  Tiles() {}  // nothing has to be set up
};

// Tiles that lie one after the other as float32, the first and the second numbers of the pairs by themselves: a line of 16
// pairs to row `line` of `to`, of kColumns, at the tile's columns or, of a first operand, below the tile before.
template <int kTiles, bool kBeside>
struct Halves {
  static constexpr int kLines = kBeside ? kTileRows : kTiles * kTileRows, kColumns = kBeside ? kTiles * kTileRows : kTileRows;
  alignas(64) float half[2][kLines][kColumns];

  REAREC_INLINE void read(const bfloat16* tiles) {
    for (int64_t line = 0; line < kTiles * kTileRows; ++line) {
      const int64_t row = kBeside ? line % kTileRows : line, column = kBeside ? line / kTileRows * kTileRows : 0;
      for (int64_t lane = 0; lane < kTileRows; lane += kLanes) {
        vuint pairs;
        std::memcpy(&pairs, tiles + line * kTileDepth + 2 * lane, sizeof pairs);
        store(&half[0][row][column + lane], (vfloat)(pairs << 16));
        store(&half[1][row][column + lane], (vfloat)(pairs & 0xffff0000u));
      }
    }
  }
};

constexpr int kRowsAtOnce = 4;

// The products of one half of the pairs, for some rows and kVectors * kLanes columns, from 0.
template <int kVectors, int kColumns>
REAREC_INLINE void sum_half(const float (*rows)[kTileRows], const float (*columns)[kColumns],
                            vfloat (&total)[kRowsAtOnce][kVectors]) {
  for (int i = 0; i < kRowsAtOnce; ++i)
    for (int v = 0; v < kVectors; ++v) total[i][v] = vfloat{};
  for (int64_t pair = 0; pair < kTileRows; ++pair) {
    vfloat column[kVectors];
    for (int v = 0; v < kVectors; ++v) column[v] = load(columns[pair] + v * kLanes);
    for (int i = 0; i < kRowsAtOnce; ++i)
      for (int v = 0; v < kVectors; ++v) total[i][v] += rows[i][pair] * column[v];
  }
}

template <int kColumnTiles>
REAREC_INLINE void add_product(const Halves<2, false>& first, const Halves<kColumnTiles, true>& second, float* sums) {
  constexpr int kColumns = kColumnTiles * kTileRows, kVectors = kColumns < 2 * kLanes ? 1 : 2;
  for (int64_t row = 0; row < kBlock; row += kRowsAtOnce)
    for (int64_t n = 0; n < kColumns; n += kVectors * kLanes) {
      vfloat of_first[kRowsAtOnce][kVectors], of_second[kRowsAtOnce][kVectors];
      sum_half<kVectors>(first.half[0] + row, reinterpret_cast<const float(*)[kColumns]>(&second.half[0][0][n]), of_first);
      sum_half<kVectors>(first.half[1] + row, reinterpret_cast<const float(*)[kColumns]>(&second.half[1][0][n]), of_second);
      for (int i = 0; i < kRowsAtOnce; ++i)
        for (int v = 0; v < kVectors; ++v) {
          float* const place = sums + sum_index<kColumnTiles>(row + i, n + v * kLanes);
          store(place, load(place) + (of_first[i][v] + of_second[i][v]));
        }
    }
}

template <int kParts, bool kAdd, int kColumnTiles = 2>
void multiply_strips(const bfloat16* first, const bfloat16* second, int64_t steps, float* sums) {
  constexpr int64_t kSecond = kColumnTiles * kTileValues;  // of one part in a step
  if (!kAdd) std::memset(sums, 0, static_cast<size_t>(2 * kColumnTiles * kSumsTile) * sizeof(float));
  Halves<2, false> rows, rests;
  Halves<kColumnTiles, true> columns;
  for (int64_t s = 0; s < steps; ++s, first += kStep<kParts>, second += kParts * kSecond) {
    rows.read(first);
    columns.read(second);
    if (kParts == 2) {
      rests.read(first + 2 * kTileValues);
      add_product<kColumnTiles>(rests, columns, sums);
    }
    add_product<kColumnTiles>(rows, columns, sums);
    if (kParts == 2) {
      columns.read(second + kSecond);
      add_product<kColumnTiles>(rows, columns, sums);
    }
  }
}

}  // namespace
}  // namespace rearec::tiles
