// What every search over the catalog shares: exclusion, heaps of the best items, and the float32 scores themselves.
#pragma once
#include "cpu/retrieval.h"
#include "cpu/simd.h"

namespace rearec {
namespace {

// --- Exclusion

struct ExcludedItems {
  const int64_t* begin;
  const int64_t* end;
};

REAREC_INLINE ExcludedItems excluded_of_row(const Exclusion& exclusion, int64_t row) {
  if (!exclusion.begin) return {exclusion.items, exclusion.items + exclusion.count};
  return {exclusion.items + exclusion.begin[row], exclusion.items + exclusion.end[row]};
}

// The first excluded item that is not below `item`.
const int64_t* first_not_below(ExcludedItems excluded, int64_t item) {
  while (excluded.begin < excluded.end) {
    const int64_t* middle = excluded.begin + (excluded.end - excluded.begin) / 2;
    if (*middle < item) {
      excluded.begin = middle + 1;
    } else {
      excluded.end = middle;
    }
  }
  return excluded.begin;
}

REAREC_INLINE bool is_excluded(ExcludedItems excluded, int64_t item) {
  const int64_t* found = first_not_below(excluded, item);
  return found < excluded.end && *found == item;
}

// --- Heap

struct Heap {
  float* scores;
  int64_t* items;
  int64_t k;

  REAREC_INLINE float threshold() const { return scores[0]; }
  REAREC_INLINE bool worse(int64_t a, float score, int64_t item) const {
    return scores[a] < score || (scores[a] == score && items[a] > item);
  }
  // Puts (score, item) on top of the first `size` entries, in place of the worst, and restores the order below.
  void replace_top(float score, int64_t item, int64_t size) {
    int64_t hole = 0;
    for (int64_t child = 1; child < size; child = 2 * hole + 1) {
      if (child + 1 < size && worse(child + 1, scores[child], items[child])) ++child;
      if (!worse(child, score, item)) break;
      scores[hole] = scores[child];
      items[hole] = items[child];
      hole = child;
    }
    scores[hole] = score;
    items[hole] = item;
  }
  // Takes the worst away again and again, each to the end of what is left.
  void sort() {
    for (int64_t last = k - 1; last > 0; --last) {
      const float score = scores[last];
      const int64_t item = items[last];
      scores[last] = scores[0];
      items[last] = items[0];
      replace_top(score, item, last);
    }
  }
};

REAREC_INLINE Heap heap_of(const Best& best, int64_t row, int64_t part = 0) {
  const int64_t first = (part * best.rows + row) * best.k;
  return {best.scores + first, best.items + first, best.k};
}

// Items are offered in ascending order: one that ties with the worst kept score is the higher item, and stays out.
REAREC_INLINE void offer(Heap& heap, float score, int64_t item, ExcludedItems excluded) {
  if (score > heap.threshold() && !is_excluded(excluded, item)) heap.replace_top(score, item, heap.k);
}

// --- Rank

// 2 for a score above the target's, 1 for the same.
REAREC_INLINE int64_t half_count(float score, float target_score) {
  return int64_t{score > target_score} + int64_t{score >= target_score};
}

// --- Scores

// A float32 that is read as the nearest bfloat16, NaN as NaN.
struct RoundedFloat {
  float exact;
};
REAREC_INLINE vfloat nearest_bfloat16(vfloat x) {
  const vuint bits = (vuint)x;
  const vint is_nan = x != x;
  return is_nan ? x : (vfloat)((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}
REAREC_INLINE vfloat load(const RoundedFloat* p) { return nearest_bfloat16(load(&p->exact)); }
REAREC_INLINE vfloat load_first(const RoundedFloat* p, int64_t count) {
  return nearest_bfloat16(load_first(&p->exact, count));
}

// Scores of kItems items against R rows of h [R, width]: every element of an item is read once and used R times. A score
// has the same bits whatever R and kItems are. `ahead` elements further on, what comes next is fetched.
template <class T, int R, int kItems>
REAREC_INLINE void few_scores(const float* hidden, int64_t width, const T* const (&vectors)[kItems], int64_t ahead,
                              float (&scores)[kItems][R]) {
  vfloat total[kItems][R];
  for (int i = 0; i < kItems; ++i)
    for (int r = 0; r < R; ++r) total[i][r] = vfloat{};
  int64_t n = 0;
  for (; n + kLanes <= width; n += kLanes)
    for (int i = 0; i < kItems; ++i) {
      __builtin_prefetch(vectors[i] + ahead + n);  // the hardware does not follow several rows at once
      const vfloat e = load(vectors[i] + n);
      for (int r = 0; r < R; ++r) total[i][r] += load(hidden + r * width + n) * e;
    }
  if (n < width)
    for (int i = 0; i < kItems; ++i) {
      const vfloat e = load_first(vectors[i] + n, width - n);
      for (int r = 0; r < R; ++r) total[i][r] += load_first(hidden + r * width + n, width - n) * e;
    }
  for (int i = 0; i < kItems; ++i)
    for (int r = 0; r < R; ++r) scores[i][r] = sum(total[i][r]);
}

}  // namespace
}  // namespace rearec
