// Top-k over a catalogue of tiles: scores of bfloat16 operands and, where the tiles have bounds, from these the exact
// top-k by float32 scores.
#pragma once
#include "amx/item_tiles.h"
#include "cpu/retrieval.h"

namespace rearec::amx {

// Scratch of `parts` threads for `rows` rows padded to a multiple of 32.
struct Candidates {
  float* upper;       // [parts, padded rows, capacity]: no less than the item's float32 score
  float* lower;       // no more than it
  int64_t* items;     // ~item where upper = lower is the very score
  int64_t* count;     // [parts, padded rows]
  int64_t* products;  // float32 scores computed
  float* threshold;   // k items have scores above or at it
  int64_t capacity;   // above k
  int parts;
};

struct TileTopK {
  const float* hidden;  // [rows, width], dense
  ItemTiles catalog;
  Table table;  // with bounds: what the float32 scores are computed from
  Exclusion exclusion;
  RowTiles rows;  // scratch
  Candidates candidates;
  Best best;        // the result, in descending order
  bool* is_proven;  // [rows]: false where this gave up, and best holds nothing
  bool* is_of_other_table = nullptr;  // scratch: a score was outside its interval
};

// Returns how many float32 scores were computed; -1 where one shows that the table is not what the tiles were made of.
int64_t topk(const TileTopK& a);

}  // namespace rearec::amx
