// An item table as tiles of bfloat16, and how far the scores of such tiles are from float32 scores.
//
// Items are the first operand of the products. A block is 32 items: for every 32 values of depth a tile of its first 16
// items and one of its last 16, so that a block is one stretch of memory. Rows of hidden states are the second operand.
//
// With bounds, tiles hold c = e - center, where `center` is any fixed vector (near the middle of the items, so that c is
// short). Then, with c~ and h~ for the rounded vectors, and u for what float32 sums of products may be off,
//
//   |h.e - (h.center + h~.c~)| <= |h - h~| |c| + |h~| |c - c~| + u (|h| |e| + |h~| |c~|)
//
// by Cauchy and Schwarz. It is this bound, per row and item, that proves a top-k complete.
#pragma once
#include <cstdint>

#include "cpu/tiles/matrix.h"

namespace rearec::tiles {

constexpr int kBlockItems = 32;

struct ItemTiles {
  const void* tiles;    // bfloat16 [blocks, depth tiles, 2, 16, 32], zeros beyond the last item and the width; null
                        // where a pass over the catalog packs them as it goes (item_scan.h)
  const float* bounds;  // [blocks, 2, 32]: |c| and |c - c~|, rounded up; |c| infinite where nothing can be said
  const float* center;  // [width], with bounds; null where products of bfloat16 are the scores
  int64_t items;
  int64_t width;

  bool is_bounded() const { return center != nullptr; }
};

struct PackItems {
  ItemTiles to;
  Matrix from;  // [items, width]
  int threads;
  const int64_t* chosen;  // [items]: rows of `from`; null: all, in their order
};

// Scratch: rows as the second operand and, with bounds, what the bound of row and item takes of the row.
struct RowTiles {
  void* tiles;       // bfloat16 [strips, depth tiles, column tiles, 16, 16, 2]: as many column tiles as a strip has
  float* bounds;     // [4, padded]
  bool* is_bounded;  // [padded]: false where nothing can be said
  int64_t padded;    // rows, a multiple of 32 that is not below their number

  // slack = of_norm |c| + of_residual |c - c~| + constant
  float* of_norm() const { return bounds; }
  float* of_residual() const { return bounds + padded; }
  float* constant() const { return bounds + 2 * padded; }
  float* offset() const { return bounds + 3 * padded; }  // h.center
};

// Of a strip of so many rows: 16 in each.
constexpr int column_tiles(int64_t rows) { return rows <= 16 ? 1 : 2; }

}  // namespace rearec::tiles
