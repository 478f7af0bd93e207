// Top-k over a catalog of tiles: scores of bfloat16 operands and, where the tiles have bounds, from these the exact
// top-k by float32 scores.
#pragma once
#include "cpu/tiles/item_tiles.h"
#include "cpu/retrieval.h"

namespace rearec::tiles {

// Scratch of the parts' threads.
struct Candidates {
  float* scores;     // [2, parts, padded, capacity]: no less than the item's float32 score; no more than it
  int64_t* items;    // [parts, padded, capacity]: ~item where both are the very score
  int64_t* state;    // [2, parts, padded]: how many there are; float32 scores computed, negative if of another table
  float* threshold;  // [parts, padded]: k items have scores above or at it
  int64_t capacity;  // above k
};

struct TileTopK {
  const float* hidden;  // [rows, width], dense
  ItemTiles catalog;
  Matrix table;  // with bounds: what the float32 scores are computed from
  Exclusion exclusion;
  RowTiles rows;
  Candidates candidates;
  Best best;        // the result, in descending order
  bool* is_proven;  // [rows]: false where this gave up, and best holds nothing
  int parts;        // threads, each with a share of the catalog
};

struct TopKEngine {
  // Fills the tiles, and the bounds unless they are null.
  void (*pack_items)(const PackItems&);
  // Returns how many float32 scores were computed; -1 where one shows that the table is not what the tiles were made of.
  int64_t (*topk)(const TileTopK&);
};

namespace portable { extern const TopKEngine topk; }
namespace avx512_bf16 { extern const TopKEngine topk; }
namespace amx { extern const TopKEngine topk; }

}  // namespace rearec::tiles
