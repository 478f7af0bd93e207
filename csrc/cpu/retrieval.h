// Retrieval over the whole catalog on the CPU: top-k and rank over blocks of scores that a matrix product has just
// written, and both with scores that they compute themselves for a few rows. One table of kernels per instruction set.
#pragma once
#include <cstdint>

namespace rearec {

// Scores h.e of `rows` rows and the items first_item .. first_item + columns - 1, row-major float32.
struct Scores {
  const float* values;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t first_item;
  int threads;
};

// Items that do not count, ascending and without repetition: of row r items[begin[r]] .. items[end[r] - 1], or, without
// begin and end, the same `count` items of every row.
struct Exclusion {
  const int64_t* begin;
  const int64_t* end;
  const int64_t* items;
  int64_t count;
};

// The best k items of each row so far: a heap with the worst on top. A free place is (-infinity, -1), so scores of
// -infinity and NaN are never candidates. Of equal scores the lower item is the better.
struct Best {
  float* scores;   // [rows, k]
  int64_t* items;  // [rows, k]
  int64_t rows;
  int64_t k;
};

struct TopK {
  Scores scores;  // blocks come in ascending order of their items
  Best best;
  Exclusion exclusion;
};

struct Table {
  const void* values;  // [items, width], rows row_stride elements apart
  bool is_bfloat16;    // else float32
  bool is_rounded;     // float32 that are rounded to bfloat16 as they are read
  int64_t items;
  int64_t width;
  int64_t row_stride;
};

// For up to kMaxDirectRows rows, where reading the table is all the work: scores and heaps in one pass over it.
struct DirectTopK {
  const float* hidden;  // [best.rows, width], dense
  Table table;
  Best best;  // scores and items are [parts, rows, k]; the result is in part 0
  int parts;  // threads, each with a share of the table and heaps of its own
  Exclusion exclusion;
};

// Heaps to descending order.
struct TopKSort {
  Best best;
};

struct Rank {
  Scores scores;
  const int64_t* target;      // [rows]
  const float* target_score;  // [rows], from a product of the same shape
  int64_t* half_counts;       // [rows], added to: 2 for an item scored above the target, 1 for a tie
  Exclusion exclusion;
};

// For up to kMaxDirectRows rows: scores and counts in one pass over the table.
struct DirectRank {
  const float* hidden;  // [rows, width], dense
  Table table;
  int64_t rows;
  const int64_t* target;  // [rows]
  const float* bonus;     // [rows], added to the target's score, or null
  float* target_score;    // [rows]: the result, with the bonus
  int64_t* half_counts;   // [parts, rows]: the result is in part 0, as of Rank
  int parts;              // threads, each with a share of the table
  Exclusion exclusion;
};

struct RetrievalKernels {
  void (*topk)(const TopK&);
  void (*topk_direct)(const DirectTopK&);
  void (*topk_sort)(const TopKSort&);
  void (*rank)(const Rank&);
  void (*rank_direct)(const DirectRank&);
};

namespace baseline { extern const RetrievalKernels retrieval; }
namespace x86_64_v3 { extern const RetrievalKernels retrieval; }
namespace x86_64_v4 { extern const RetrievalKernels retrieval; }

}  // namespace rearec
