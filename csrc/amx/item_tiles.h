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

namespace rearec::amx {

constexpr int kBlockItems = 32;

struct ItemTiles {
  const void* tiles;    // bfloat16 [blocks, depth tiles, 2, 16, 32], zeros beyond the last item and the width
  const float* bounds;  // [blocks, 2, 32]: |c| and |c - c~|, rounded up; |c| infinite where nothing can be said. Or null
  const float* center;  // [width], with bounds
  int64_t items;
  int64_t width;
};

struct Table {
  const void* values;  // [items, width], rows row_stride elements apart
  bool is_bfloat16;    // else float32
  int64_t row_stride;
};

// Fills the tiles, and the bounds unless they are null.
void pack_items(const ItemTiles& to, const Table& from, int threads);

// Rows [rows, width] as the second operand and, with bounds, what the bound of row and item takes of the row.
struct RowTiles {
  void* tiles;       // bfloat16 [row tiles, depth tiles, 16, 16, 2], as all of these for a multiple of 32 rows
  float* of_norm;    // slack = of_norm |c| + of_residual |c - c~| + constant
  float* of_residual;
  float* constant;
  float* offset;     // h.center
  bool* is_bounded;  // false where nothing can be said
  int64_t rows;
};
void pack_rows(const RowTiles& to, const float* hidden, const ItemTiles& items);

}  // namespace rearec::amx
