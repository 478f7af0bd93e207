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

// --- Few rows

constexpr int kPrefetchItems = 8;

// Calls visit(item, scores) for kItems items from the first one on, with a score of every row.
template <class T, int R, int kItems, class Visit>
REAREC_INLINE void direct_items(const float* hidden, const Table& table, int64_t first_item, const Visit& visit) {
  const T* vectors[kItems];
  for (int i = 0; i < kItems; ++i) vectors[i] = static_cast<const T*>(table.values) + (first_item + i) * table.row_stride;
  float scores[kItems][R];
  few_scores<T, R, kItems>(hidden, table.width, vectors, kPrefetchItems * table.row_stride, scores);
  for (int i = 0; i < kItems; ++i) visit(first_item + i, scores[i]);
}

template <class T, int R, class Visit>
REAREC_INLINE void direct_part(const float* hidden, const Table& table, int64_t first_item, int64_t end_item,
                               const Visit& visit) {
  constexpr int kRoom = kRegisters / 2 / R;  // half of the registers hold sums
  constexpr int kItems = kRoom > 4 ? 4 : kRoom > 1 ? kRoom : 1;
  int64_t item = first_item;
  for (; item + kItems <= end_item; item += kItems) direct_items<T, R, kItems>(hidden, table, item, visit);
  for (; item < end_item; ++item) direct_items<T, R, 1>(hidden, table, item, visit);
}

// The type that the table's values are read as, and the number of rows, for who is compiled for each.
template <class T>
struct Type {
  typedef T type;
};
template <int kValue>
struct Number {
  static constexpr int value = kValue;
};
template <class Run>
REAREC_INLINE void by_type(const Table& table, const Run& run) {
  if (table.is_bfloat16) return run(Type<bfloat16>{});
  if (table.is_rounded) return run(Type<RoundedFloat>{});
  run(Type<float>{});
}
template <class Run>
REAREC_INLINE void by_rows(int64_t rows, const Run& run) {
  static_assert(kMaxDirectRows == 8, "by_rows");
  switch (rows) {
    case 1: return run(Number<1>{});
    case 2: return run(Number<2>{});
    case 3: return run(Number<3>{});
    case 4: return run(Number<4>{});
    case 5: return run(Number<5>{});
    case 6: return run(Number<6>{});
    case 7: return run(Number<7>{});
    default: return run(Number<8>{});
  }
}

template <class T, int R>
void topk_part(const DirectTopK& a, int64_t first, int64_t end, int64_t part) {
  Heap heaps[R];
  for (int r = 0; r < R; ++r) heaps[r] = heap_of(a.best, r, part);
  direct_part<T, R>(a.hidden, a.table, first, end, [&](int64_t item, const float* scores) {
    for (int r = 0; r < R; ++r)
      if (scores[r] > heaps[r].threshold()) offer(heaps[r], scores[r], item, excluded_of_row(a.exclusion, r));
  });
}

template <class T, int R>
void rank_part(const DirectRank& a, int64_t first, int64_t end, int64_t part) {
  ExcludedItems excluded[R];  // those to come
  int64_t counts[R] = {}, target[R];
  float target_score[R];
  for (int r = 0; r < R; ++r) {
    excluded[r] = excluded_of_row(a.exclusion, r);
    excluded[r].begin = first_not_below(excluded[r], first);
    target[r] = a.target[r];
    target_score[r] = a.target_score[r];
  }
  direct_part<T, R>(a.hidden, a.table, first, end, [&](int64_t item, const float* scores) {
    for (int r = 0; r < R; ++r) {
      const bool is_barred = excluded[r].begin < excluded[r].end && *excluded[r].begin == item;
      excluded[r].begin += is_barred;
      if (!is_barred && item != target[r]) counts[r] += half_count(scores[r], target_score[r]);
    }
  });
  for (int r = 0; r < R; ++r) a.half_counts[part * R + r] = counts[r];
}

void topk_direct(const DirectTopK& a) {
  for_each_task(a.parts, a.parts, [&](int64_t part) {
    const int64_t first = a.table.items * part / a.parts, end = a.table.items * (part + 1) / a.parts;
    by_type(a.table, [&](auto type) {
      by_rows(a.best.rows, [&](auto rows) {
        topk_part<typename decltype(type)::type, decltype(rows)::value>(a, first, end, part);
      });
    });
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

void rank_direct(const DirectRank& a) {
  by_type(a.table, [&](auto type) {
    for (int64_t row = 0; row < a.rows; ++row)
      direct_items<typename decltype(type)::type, 1, 1>(
          a.hidden + row * a.table.width, a.table, a.target[row],
          [&](int64_t, const float* score) { a.target_score[row] = a.bonus ? *score + a.bonus[row] : *score; });
  });
  for_each_task(a.parts, a.parts, [&](int64_t part) {
    const int64_t first = a.table.items * part / a.parts, end = a.table.items * (part + 1) / a.parts;
    by_type(a.table, [&](auto type) {
      by_rows(a.rows, [&](auto rows) {
        rank_part<typename decltype(type)::type, decltype(rows)::value>(a, first, end, part);
      });
    });
  });
  for (int part = 1; part < a.parts; ++part)
    for (int64_t row = 0; row < a.rows; ++row) a.half_counts[row] += a.half_counts[part * a.rows + row];
}

// --- Rank

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
const RetrievalKernels retrieval = {topk, topk_direct, topk_sort, rank, rank_direct};
}

}  // namespace rearec
