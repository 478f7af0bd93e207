// Running top-k heaps and rank counts over blocks of scores, never the whole [rows, items] matrix.
#include "cpu/retrieval.h"

#include "cpu/best_items.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "kernel_limits.h"

namespace rearec {
namespace {

void topk(const TopK& a) {
  constexpr int kVectors = 8;
  const int64_t columns = a.scores.columns;
  for_each_evenly(a.scores.threads, a.scores.rows, [&](int64_t row) {
    const float* scores = a.scores.values + row * a.scores.row_stride;
    const ExcludedItems excluded = excluded_of_row(a.exclusion, row);
    Heap heap = heap_of(a.best, row);
    int64_t n = 0;
    for (; n + kVectors * kLanes <= columns; n += kVectors * kLanes) {
      vfloat m = broadcast(-kInfinity);
      for (int i = 0; i < kVectors; ++i) m = larger(load(scores + n + i * kLanes), m);
      if (max(m) > heap.threshold())
        for (int64_t j = n; j < n + kVectors * kLanes; ++j) offer(heap, scores[j], a.scores.first_item + j, excluded);
    }
    for (; n < columns; ++n) offer(heap, scores[n], a.scores.first_item + n, excluded);
  });
}

void topk_sort(const TopKSort& a) {
  for (int64_t row = 0; row < a.best.rows; ++row) heap_of(a.best, row).sort();
}

// --- Top-k, few rows

constexpr int kPrefetchItems = 8;

template <class T, int R, int kItems>
REAREC_INLINE void direct_items(const DirectTopK& a, int64_t first_item, Heap* heaps) {
  const T* vectors[kItems];
  for (int i = 0; i < kItems; ++i) vectors[i] = static_cast<const T*>(a.table) + (first_item + i) * a.row_stride;
  float scores[kItems][R];
  few_scores<T, R, kItems>(a.hidden, a.width, vectors, kPrefetchItems * a.row_stride, scores);
  for (int i = 0; i < kItems; ++i)
    for (int r = 0; r < R; ++r)
      if (scores[i][r] > heaps[r].threshold())
        offer(heaps[r], scores[i][r], first_item + i, excluded_of_row(a.exclusion, r));
}

template <class T, int R>
void direct_part(const DirectTopK& a, int64_t first_item, int64_t end_item, int64_t part) {
  constexpr int kRoom = kRegisters / 2 / R;  // half of the registers hold sums
  constexpr int kItems = kRoom > 4 ? 4 : kRoom > 1 ? kRoom : 1;
  Heap heaps[R];
  for (int r = 0; r < R; ++r) heaps[r] = heap_of(a.best, r, part);
  int64_t item = first_item;
  for (; item + kItems <= end_item; item += kItems) direct_items<T, R, kItems>(a, item, heaps);
  for (; item < end_item; ++item) direct_items<T, R, 1>(a, item, heaps);
}

template <class T>
void direct_by_rows(const DirectTopK& a, int64_t first_item, int64_t end_item, int64_t part) {
  switch (a.best.rows) {
    case 1: return direct_part<T, 1>(a, first_item, end_item, part);
    case 2: return direct_part<T, 2>(a, first_item, end_item, part);
    case 3: return direct_part<T, 3>(a, first_item, end_item, part);
    case 4: return direct_part<T, 4>(a, first_item, end_item, part);
    case 5: return direct_part<T, 5>(a, first_item, end_item, part);
    case 6: return direct_part<T, 6>(a, first_item, end_item, part);
    case 7: return direct_part<T, 7>(a, first_item, end_item, part);
    default: return direct_part<T, 8>(a, first_item, end_item, part);
  }
}

void topk_direct(const DirectTopK& a) {
  static_assert(kMaxDirectRows == 8, "direct_by_rows");
  for_each_task(a.parts, a.parts, [&](int64_t part) {
    const int64_t first = a.items * part / a.parts, end = a.items * (part + 1) / a.parts;
    a.table_is_bfloat16 ? direct_by_rows<bfloat16>(a, first, end, part) : direct_by_rows<float>(a, first, end, part);
  });
  for (int64_t row = 0; row < a.best.rows; ++row) {
    Heap result = heap_of(a.best, row);
    for (int part = 1; part < a.parts; ++part) {
      const Heap other = heap_of(a.best, row, part);
      for (int64_t i = 0; i < a.best.k; ++i)
        if (result.worse(0, other.scores[i], other.items[i]))
          result.replace_top(other.scores[i], other.items[i], a.best.k);
    }
  }
}

// --- Rank

// 2 for a score above the target's, 1 for the same.
REAREC_INLINE int64_t half_count(float score, float target_score) {
  return int64_t{score > target_score} + int64_t{score >= target_score};
}

void rank(const Rank& a) {
  const int64_t columns = a.scores.columns, first = a.scores.first_item;
  for_each_evenly(a.scores.threads, a.scores.rows, [&](int64_t row) {
    const float* scores = a.scores.values + row * a.scores.row_stride;
    const float target_score = a.target_score[row];
    const int64_t target = a.target[row];
    vint counts{};  // comparisons are -1 where true; a block has fewer than 2^30 columns
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) {
      const vfloat x = load(scores + n);
      counts -= (vint)(x > target_score) + (vint)(x >= target_score);
    }
    int64_t total = 0;
    for (int i = 0; i < kLanes; ++i) total += counts[i];
    for (; n < columns; ++n) total += half_count(scores[n], target_score);
    if (target >= first && target < first + columns) total -= half_count(scores[target - first], target_score);
    const ExcludedItems excluded = excluded_of_row(a.exclusion, row);
    for (const int64_t* item = first_not_below(excluded, first); item < excluded.end && *item < first + columns; ++item)
      if (*item != target) total -= half_count(scores[*item - first], target_score);
    a.half_counts[row] += total;
  });
}

}  // namespace

namespace REAREC_ISA {
const RetrievalKernels retrieval = {topk, topk_direct, topk_sort, rank};
}

}  // namespace rearec
