// Top-k and rank over a catalog of tiles: by scores of bfloat16 operands or, where the tiles have bounds, by the float32
// scores that these leave undecided.
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
  Matrix table;  // what the float32 scores are computed from, and tiles where there are none yet
  Exclusion exclusion;
  RowTiles rows;
  Candidates candidates;
  Best best;        // the result, in descending order
  bool* is_proven;  // [rows]: false where this gave up, and best holds nothing
  int parts;        // threads, each with a share of the catalog
};

// Scratch of the parts' threads.
struct RankState {
  float* scores;      // [1 + parts, padded]: of the targets without their bonus; what items are compared with, or NaN
  int64_t* progress;  // [3, parts, padded]: half counts; the next excluded item; float32 scores, as in Candidates
};

struct TileRank {
  const float* hidden;  // [count, width], dense
  int64_t count;        // rows
  ItemTiles catalog;
  Matrix table;  // as in TileTopK
  const int64_t* target;  // [count]
  const float* bonus;     // [count], added to the target's score, or null
  Exclusion exclusion;
  RowTiles rows;
  RankState state;
  float* target_score;   // [count]: the result, with the bonus
  int64_t* half_counts;  // [count]: the result, 2 for an item scored above the target and 1 for a tie
  bool* is_proven;       // [count]: false where this gave up, and there is no result
  int parts;             // threads, each with a share of the catalog
};

struct RetrievalEngine {
  // Fills the tiles, and the bounds unless they are null.
  void (*pack_items)(const PackItems&);
  // Both return how many float32 scores were computed; -1 where one shows that the table is not what the tiles were made
  // of.
  int64_t (*topk)(const TileTopK&);
  int64_t (*rank)(const TileRank&);
};

namespace portable { extern const RetrievalEngine retrieval; }
namespace avx512_bf16 { extern const RetrievalEngine retrieval; }
namespace amx { extern const RetrievalEngine retrieval; }
namespace neon_bf16 { extern const RetrievalEngine retrieval; }

}  // namespace rearec::tiles
