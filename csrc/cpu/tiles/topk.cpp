// One pass over the tiles gives every item an interval that its float32 score is in. Per row, the k-th highest lower end
// so far is a threshold: what has its upper end below it is not among the best k, and the few others are kept as
// candidates. Where they become too many, their float32 scores are computed and the k-th best of these is the threshold.
// At the end, the float32 scores of those left decide.
#include "cpu/tiles/retrieval.h"

#include "cpu/parallel.h"
#include "cpu/tiles/item_scan.h"

namespace rearec::tiles {
namespace {

// Beyond this part of a share of the catalog, reading it as a whole is faster than computing scores one by one.
constexpr int64_t kGiveUp = 16;

struct Row {  // the candidates of one row in one part, in ascending order of their items
  float* upper;
  float* lower;
  int64_t* items;
  int64_t* count;
  int64_t* products;
  float* threshold;

  REAREC_INLINE void keep(int64_t to, int64_t from) const {
    upper[to] = upper[from];
    lower[to] = lower[from];
    items[to] = items[from];
  }
  // Of those that may be among the best.
  void prune() const {
    int64_t kept = 0;
#if defined(__AVX512F__)
    for (int64_t i = 0; i < *count; i += kLanes) {
      const int64_t left = *count - i;
      const __mmask16 there = static_cast<__mmask16>(left < kLanes ? (1u << left) - 1 : 0xffff);
      const __m512 uppers = _mm512_maskz_loadu_ps(there, upper + i), lowers = _mm512_maskz_loadu_ps(there, lower + i);
      const __m512i first = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(there), items + i);
      const __m512i second = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(there >> 8), items + i + 8);
      const __mmask16 stays = _mm512_mask_cmp_ps_mask(there, uppers, _mm512_set1_ps(*threshold), _CMP_GE_OQ);
      const int of_first = __builtin_popcount(stays & 0xff);
      _mm512_mask_compressstoreu_ps(upper + kept, stays, uppers);
      _mm512_mask_compressstoreu_ps(lower + kept, stays, lowers);
      _mm512_mask_compressstoreu_epi64(items + kept, static_cast<__mmask8>(stays), first);
      _mm512_mask_compressstoreu_epi64(items + kept + of_first, static_cast<__mmask8>(stays >> 8), second);
      kept += __builtin_popcount(stays);
    }
#else
    for (int64_t i = 0; i < *count; ++i) {  // without branches, which nobody could foresee
      const bool stays = upper[i] >= *threshold;
      keep(kept, i);
      kept += stays;
    }
#endif
    *count = kept;
  }
};

Row row_of(const TileTopK& a, int64_t part, int64_t row) {
  const Candidates& c = a.candidates;
  const int64_t padded = a.rows.padded, all = a.parts * padded;
  const int64_t place = part * padded + row, first = place * c.capacity;
  return {c.scores + first, c.scores + all * c.capacity + first, c.items + first,
          c.state + place,  c.state + all + place,                c.threshold + place};
}

// Finite or infinite float32 in their order, as integers and back.
REAREC_INLINE int32_t to_ordinal(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits < 0 ? static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(bits)) : bits;
}
REAREC_INLINE float from_ordinal(int32_t ordinal) {
  const int32_t bits = ordinal < 0 ? static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(ordinal)) : ordinal;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// A bound that k of the n values x reach, 1 <= k <= n: no more of them do, or it is the k-th largest. No NaN.
float bound_of_best(const float* x, int64_t n, int64_t k) {
  int64_t low = to_ordinal(-kInfinity), high = int64_t{to_ordinal(kInfinity)} + 1;  // at least, and fewer than k
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const float bound = from_ordinal(static_cast<int32_t>(middle));
    int64_t reaching = 0, i = 0;
    for (; i + kLanes <= n; i += kLanes) reaching += __builtin_popcount(lanes_not_below(load(x + i), broadcast(bound)));
    for (; i < n; ++i) reaching += x[i] >= bound;
    if (reaching == k) return bound;
    (reaching > k ? low : high) = middle;
  }
  return from_ordinal(static_cast<int32_t>(low));
}

// The candidates' float32 scores in place of their intervals; NaN and -infinity leave.
template <class T>
void compute_scores(const TileTopK& a, int64_t row, const Row& candidates) {
  int64_t waiting[kTogether], items[kTogether], waiting_count = 0, computed = 0;
  bool is_of_other_table = false;
  const auto flush = [&] {
    float scores[kTogether][1];
    float32_scores<T>(a.table, a.catalog.width, a.hidden + row * a.catalog.width, items, waiting_count, scores);
    for (int64_t i = 0; i < waiting_count; ++i) {
      const int64_t place = waiting[i];
      if (!is_within(scores[i][0], candidates.lower[place], candidates.upper[place])) is_of_other_table = true;
      candidates.upper[place] = candidates.lower[place] = scores[i][0];
      candidates.items[place] = ~candidates.items[place];
    }
    computed += waiting_count;
    waiting_count = 0;
  };
  for (int64_t i = 0; i < *candidates.count; ++i) {
    if (candidates.items[i] < 0) continue;
    items[waiting_count] = candidates.items[i];
    waiting[waiting_count++] = i;
    if (waiting_count == kTogether) flush();
  }
  if (waiting_count) flush();
  *candidates.products += is_of_other_table && *candidates.products >= 0 ? kOtherTable : computed;
  int64_t kept = 0;
  for (int64_t i = 0; i < *candidates.count; ++i)
    if (candidates.upper[i] > -kInfinity) candidates.keep(kept++, i);
  *candidates.count = kept;
}

void compute_scores(const TileTopK& a, int64_t row, const Row& candidates) {
  if (!a.catalog.is_bounded()) return;  // products of bfloat16 are the scores
  a.table.is_bfloat16 ? compute_scores<bfloat16>(a, row, candidates) : compute_scores<float>(a, row, candidates);
}

void raise_threshold(const TileTopK& a, const Row& candidates) {
  if (*candidates.count < a.best.k) return;
  const float bound = bound_of_best(candidates.lower, *candidates.count, a.best.k);
  if (bound > *candidates.threshold) *candidates.threshold = bound;
  candidates.prune();
}

// Gives up on a row: nothing is above its threshold any more.
void abandon(const TileTopK& a, int64_t row, const Row& candidates) {
  __atomic_store_n(a.is_proven + row, false, __ATOMIC_RELAXED);  // other parts may do the same
  *candidates.count = 0;
  *candidates.threshold = kInfinity;
}

// Makes room for more candidates.
void make_room(const TileTopK& a, int64_t row, const Row& candidates, int64_t share) {
  raise_threshold(a, candidates);
  const int64_t room = (a.candidates.capacity - a.best.k) / 2;
  if (*candidates.count + room <= a.candidates.capacity) return;
  compute_scores(a, row, candidates);
  raise_threshold(a, candidates);
  if (*candidates.count > a.best.k) {  // ties with the k-th, of which the lower items are the better
    int64_t above = 0, kept = 0;
    for (int64_t i = 0; i < *candidates.count; ++i) above += candidates.upper[i] > *candidates.threshold;
    int64_t ties = a.best.k - above;
    for (int64_t i = 0; i < *candidates.count; ++i)
      if (candidates.upper[i] > *candidates.threshold || ties-- > 0) candidates.keep(kept++, i);
    *candidates.count = kept;
  }
  if (*candidates.products > share / kGiveUp + a.candidates.capacity) abandon(a, row, candidates);
}

// The items of a block that may be among the best of the lanes' rows, whose sums begin at column `first_lane`.
template <int kTiles>
void offer_lanes(const TileTopK& a, int64_t part, int64_t first_row, unsigned lanes, const float* sums, int first_lane,
                 int64_t first_item, const Bounds& bounds, int64_t share) {
  for (unsigned left = lanes; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    const int64_t row = first_row + lane;
    const Row candidates = row_of(a, part, row);
    const ExcludedItems excluded = excluded_of_row(a.exclusion, row);
    for (int first = 0; first < kBlock; first += kLanes) {
      float column[kLanes], upper[kLanes], lower[kLanes];
      for (int i = 0; i < kLanes; ++i) column[i] = sums[sum_index<kTiles>(first + i, first_lane + lane)];
      const vfloat middle = load(column) + a.rows.offset()[row];
      vfloat within = broadcast(a.rows.constant()[row]);
      if (bounds.norm)
        within = slack(broadcast(a.rows.of_norm()[row]), load(bounds.norm + first), broadcast(a.rows.of_residual()[row]),
                       load(bounds.residual + first), within);
      store(upper, middle + within);
      store(lower, middle - within);
      unsigned hits = lanes_above(load(upper), broadcast(*candidates.threshold));
      for (; hits; hits &= hits - 1) {
        const int i = __builtin_ctz(hits);
        const int64_t item = first_item + first + i;
        // Items come in ascending order: one that can but tie with k others is higher than they are.
        if (item >= a.catalog.items || !(upper[i] > *candidates.threshold) || is_excluded(excluded, item)) continue;
        const int64_t place = (*candidates.count)++;
        candidates.upper[place] = upper[i];
        candidates.lower[place] = lower[i];
        candidates.items[place] = item;
        if (*candidates.count == a.candidates.capacity) make_room(a, row, candidates, share);
      }
    }
  }
}

// Keeps what may be among the best of a part.
template <int kTiles>
struct Searcher {
  const TileTopK& a;
  const int64_t part, share;
  const float* const thresholds;

  void begin(int64_t, int64_t, int64_t) const {}
  void end(int64_t) const {}
  REAREC_INLINE void block(int64_t first_row, int64_t first_item, const float* sums, const Bounds& bounds) const {
    for (int lane = 0; lane < kTiles * kTileRows; lane += kLanes) {
      const int64_t row = first_row + lane;
      vfloat m[4];
      for (int j = 0; j < 4; ++j) m[j] = broadcast(-kInfinity);
      for (int item = 0; item < kBlock; item += 4)
        for (int j = 0; j < 4; ++j)  // of NaN and a number, the second is taken
          m[j] = larger(load(sums + sum_index<kTiles>(item + j, lane)), m[j]);
      const vfloat best = larger(larger(m[0], m[1]), larger(m[2], m[3]));
      vfloat within = load(a.rows.constant() + row);
      if (bounds.norm)
        within = slack(load(a.rows.of_norm() + row), broadcast(bounds.largest_norm), load(a.rows.of_residual() + row),
                       broadcast(bounds.largest_residual), within);
      const vfloat upper = (best + load(a.rows.offset() + row)) + within;
      const unsigned lanes = lanes_above(upper, load(thresholds + row));
      if (lanes) offer_lanes<kTiles>(a, part, row, lanes, sums, lane, first_item, bounds, share);
    }
  }
};

template <int kTiles>
void search(const TileTopK& a, int64_t part, int64_t begin, int64_t end) {
  Searcher<kTiles> searcher = {a, part, (end - begin) * kBlockItems, row_of(a, part, 0).threshold};
  scan<kTiles>(a.catalog, a.table, a.rows, a.best.rows, begin, end, searcher);
  for (int64_t row = 0; row < a.best.rows; ++row) raise_threshold(a, row_of(a, part, row));
}

// The best of all parts.
void decide(const TileTopK& a, int64_t row) {
  float threshold = -kInfinity;
  for (int part = 0; part < a.parts; ++part) {
    const float of_part = *row_of(a, part, row).threshold;
    threshold = of_part > threshold ? of_part : threshold;
  }
  Heap heap = heap_of(a.best, row);
  for (int part = 0; part < a.parts; ++part) {
    Row candidates = row_of(a, part, row);
    *candidates.threshold = heap.threshold() > threshold ? heap.threshold() : threshold;
    candidates.prune();
    compute_scores(a, row, candidates);
    for (int64_t i = 0; i < *candidates.count; ++i) {
      const int64_t item = candidates.items[i] < 0 ? ~candidates.items[i] : candidates.items[i];
      if (heap.worse(0, candidates.lower[i], item)) heap.replace_top(candidates.lower[i], item, heap.k);
    }
  }
  heap.sort();
}

}  // namespace

namespace REAREC_ENGINE {

int64_t count_rivals(const TileRank& a);  // rank.cpp

namespace {

int64_t best_items(const TileTopK& a) {
  pack_rows(a.rows, a.hidden, a.best.rows, a.catalog);
  const int parts = a.parts;
  const int64_t padded = round_up(a.best.rows, kBlock);
  for (int64_t row = 0; row < padded; ++row) {
    const bool searched = row < a.best.rows && a.rows.is_bounded[row];
    if (row < a.best.rows) a.is_proven[row] = searched;
    for (int part = 0; part < parts; ++part) {
      const Row candidates = row_of(a, part, row);
      *candidates.count = *candidates.products = 0;
      *candidates.threshold = searched ? -kInfinity : kInfinity;
    }
  }
  const int64_t blocks = ceil_divide(a.catalog.items, kBlockItems);
  for_each_task(parts, parts, [&](int64_t part) {
    const int64_t begin = blocks * part / parts, end = blocks * (part + 1) / parts;
    column_tiles(a.best.rows) == 1 ? search<1>(a, part, begin, end) : search<2>(a, part, begin, end);
  });
  for_each_evenly(parts, a.best.rows, [&](int64_t row) {
    if (a.is_proven[row]) decide(a, row);
  });
  int64_t products = 0;
  for (int part = 0; part < parts; ++part)
    for (int64_t row = 0; row < a.best.rows; ++row) {
      const int64_t of_row = *row_of(a, part, row).products;
      if (of_row < 0) return -1;
      products += of_row;
    }
  return products;
}

}  // namespace

const RetrievalEngine retrieval = {pack_items, best_items, count_rivals};

}  // namespace REAREC_ENGINE
}  // namespace rearec::tiles
