// One pass over the tiles compares every item with the row's target. Where products of bfloat16 are the scores, that is
// all; with bounds, an item whose interval is above the target's score counts, one whose interval is below it does not, and
// the float32 scores of the few between decide.
#include "cpu/parallel.h"
#include "cpu/tiles/item_scan.h"
#include "cpu/tiles/retrieval.h"

namespace rearec::tiles {
namespace {

// Beyond this part of a share of the catalog, reading it as a whole is faster than computing scores one by one.
constexpr int64_t kGiveUp = 4;

struct RankRow {  // of one row in one part
  float* threshold;
  int64_t* half_counts;
  int64_t* next;  // of the row's excluded items, counted from the first
  int64_t* products;
};

RankRow row_of(const TileRank& a, int64_t part, int64_t row) {
  const int64_t padded = a.rows.padded, all = a.parts * padded, place = part * padded + row;
  return {a.state.scores + padded + place, a.state.progress + place, a.state.progress + all + place,
          a.state.progress + 2 * all + place};
}

template <int kTiles>
class Counter {
 public:
  Counter(const TileRank& a, int64_t part, int64_t share) : a_(a), part_(part), most_(share / kGiveUp + 2 * kBlockItems) {}

  void begin(int64_t first_row, int64_t first_item, int64_t end_item) {
    for (int v = 0; v < kVectors; ++v) counts_[v] = vint{};
    barring_ = 0;
    for (int lane = 0; lane < kColumns; ++lane) {
      waiting_[lane] = 0;
      const int64_t row = first_row + lane;
      if (row >= a_.count) continue;
      const ExcludedItems excluded = to_come(row);
      const bool has_target = a_.target[row] >= first_item && a_.target[row] < end_item;
      const bool has_excluded = excluded.begin < excluded.end && *excluded.begin < end_item;
      barring_ |= static_cast<uint32_t>(has_target || has_excluded) << lane;
    }
  }

  REAREC_INLINE void block(int64_t first_row, int64_t first_item, float* sums, const Bounds& bounds) {
    for (uint32_t left = barring_; left; left &= left - 1)
      bar(first_row, __builtin_ctz(left), first_item, sums, bounds);
    const int64_t left = a_.catalog.items - first_item, items = left < kBlockItems ? left : kBlockItems;
    for (int v = 0; v < kVectors; ++v) {
      const int64_t row = first_row + v * kLanes;
      const vfloat threshold = load(row_of(a_, part_, row).threshold);
      if (!bounds.norm) {
        for (int64_t i = 0; i < items; ++i) {
          const vfloat score = load(sums + sum_index<kTiles>(i, v * kLanes));
          counts_[v] -= (vint)(score > threshold) + (vint)(score >= threshold);  // comparisons are -1 where true
        }
        continue;
      }
      const Interval of_rows(a_.rows, row);
      for (int64_t i = 0; i < items; ++i) {
        vfloat lower, upper;
        of_rows.of(load(sums + sum_index<kTiles>(i, v * kLanes)), bounds.norm[i], bounds.residual[i], &lower, &upper);
        counts_[v] -= 2 * (vint)(lower > threshold);
        const unsigned undecided = lanes_not_below(upper, threshold) & ~lanes_above(lower, threshold);
        if (undecided) wait(first_row, v * kLanes, undecided, first_item + i, lower, upper);
      }
    }
  }

  void end(int64_t first_row) {
    for (int lane = 0; lane < kColumns && first_row + lane < a_.count; ++lane) {
      if (waiting_[lane]) compute(first_row, lane);
      *row_of(a_, part_, first_row + lane).half_counts += counts_[lane / kLanes][lane % kLanes];
    }
  }

 private:
  static constexpr int kColumns = kTiles * kTileRows, kVectors = kColumns / kLanes;

  // From the products of kLanes rows with an item to where the float32 scores are.
  struct Interval {
    const vfloat offset, of_norm, of_residual, constant;

    Interval(const RowTiles& rows, int64_t row)
        : offset(load(rows.offset() + row)), of_norm(load(rows.of_norm() + row)),
          of_residual(load(rows.of_residual() + row)), constant(load(rows.constant() + row)) {}
    REAREC_INLINE void of(vfloat product, float norm, float residual, vfloat* lower, vfloat* upper) const {
      const vfloat middle = product + offset;
      const vfloat within = slack(of_norm, broadcast(norm), of_residual, broadcast(residual), constant);
      *lower = middle - within;
      *upper = middle + within;
    }
  };

  ExcludedItems to_come(int64_t row) const {
    ExcludedItems excluded = excluded_of_row(a_.exclusion, row);
    excluded.begin += *row_of(a_, part_, row).next;
    return excluded;
  }

  // Makes NaN, which counts for nothing, of the sums of a row's target and of its excluded items.
  void bar(int64_t first_row, int lane, int64_t first_item, float* sums, const Bounds& bounds) const {
    const int64_t row = first_row + lane, end = first_item + kBlockItems;
    const RankRow state = row_of(a_, part_, row);
    float* const column = sums + sum_index<kTiles>(0, lane);
    const auto place = [&](int64_t item) { return column + sum_index<kTiles>(item - first_item, 0); };
    if (a_.target[row] >= first_item && a_.target[row] < end) {
      float* const target = place(a_.target[row]);
      if (bounds.norm && a_.rows.is_bounded[row]) {
        const int v = lane / kLanes * kLanes;
        const int64_t i = a_.target[row] - first_item;
        vfloat lower, upper;
        Interval(a_.rows, first_row + v).of(broadcast(*target), bounds.norm[i], bounds.residual[i], &lower, &upper);
        if (!is_within(a_.state.scores[row], lower[lane - v], upper[lane - v])) see_other_table(state);
      }
      *target = __builtin_nanf("");
    }
    for (ExcludedItems excluded = to_come(row); excluded.begin < excluded.end && *excluded.begin < end; ++excluded.begin) {
      *place(*excluded.begin) = __builtin_nanf("");
      ++*state.next;
    }
  }

  void wait(int64_t first_row, int first_lane, unsigned lanes, int64_t item, vfloat lower, vfloat upper) {
    for (; lanes; lanes &= lanes - 1) {
      const int i = __builtin_ctz(lanes), lane = first_lane + i;
      const int place = waiting_[lane]++;
      items_[lane][place] = item;
      lower_[lane][place] = lower[i];
      upper_[lane][place] = upper[i];
      if (waiting_[lane] == kTogether) compute(first_row, lane);
    }
  }

  void compute(int64_t first_row, int lane) {
    const int64_t row = first_row + lane, count = waiting_[lane];
    waiting_[lane] = 0;
    if (row >= a_.count) return;
    const RankRow state = row_of(a_, part_, row);
    const float* h = a_.hidden + row * a_.catalog.width;
    float scores[kTogether][1];
    a_.table.is_bfloat16 ? float32_scores<bfloat16>(a_.table, a_.catalog.width, h, items_[lane], count, scores)
                         : float32_scores<float>(a_.table, a_.catalog.width, h, items_[lane], count, scores);
    for (int64_t i = 0; i < count; ++i) {
      if (!is_within(scores[i][0], lower_[lane][i], upper_[lane][i])) see_other_table(state);
      *state.half_counts += half_count(scores[i][0], *state.threshold);
    }
    *state.products += count;
    if (*state.products < most_) return;
    __atomic_store_n(a_.is_proven + row, false, __ATOMIC_RELAXED);  // other parts may do the same
    *state.threshold = __builtin_nanf("");
  }

  void see_other_table(const RankRow& state) const {
    if (*state.products >= 0) *state.products += kOtherTable;
  }

  const TileRank& a_;
  const int64_t part_, most_;
  vint counts_[kVectors];  // a panel has fewer than 2^30 items
  uint32_t barring_;       // lanes with a target or excluded items in the panel
  // Of each lane, the items to compute float32 scores of, and their intervals.
  int waiting_[kColumns];
  int64_t items_[kColumns][kTogether];
  float lower_[kColumns][kTogether], upper_[kColumns][kTogether];
};

template <int kTiles>
void count_part(const TileRank& a, int64_t part, int64_t begin, int64_t end) {
  for (int64_t row = 0; row < a.count; ++row) {
    const ExcludedItems excluded = excluded_of_row(a.exclusion, row);
    *row_of(a, part, row).next = first_not_below(excluded, begin * kBlockItems) - excluded.begin;
  }
  Counter<kTiles> counter(a, part, (end - begin) * kBlockItems);
  scan<kTiles>(a.catalog, a.table, a.rows, a.count, begin, end, counter);
}

// The scores of a group's targets from the same products as all others: they are the items of a block of their own, and
// a score does not depend on where in its block an item is.
template <int kTiles>
void score_targets(const TileRank& a, int64_t group) {
  [[maybe_unused]] const Tiles tiles_in_use;
  const int64_t depth = ceil_divide(a.catalog.width, kTileDepth), block_values = 2 * depth * kTileValues;
  const int64_t first = group * kTiles * kTileRows, left = a.count - first;
  const int64_t count = left < kTiles * kTileRows ? left : kTiles * kTileRows;
  const Scratch memory(block_values / 2 + 16);
  void* const tiles = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data) + 63) / 64 * 64);
  REAREC_ENGINE::pack_items_here({{tiles, nullptr, nullptr, count, a.catalog.width}, a.table, 1, a.target + first});
  alignas(64) float sums[kBlock * kBlock];
  multiply_strips<1, false, kTiles>(static_cast<const bfloat16*>(tiles),
                                    static_cast<const bfloat16*>(a.rows.tiles) + first * depth * kTileDepth, depth, sums);
  for (int64_t i = 0; i < count; ++i) a.state.scores[first + i] = sums[sum_index<kTiles>(i, i)];
}

void score_targets(const TileRank& a) {
  const bool narrow = column_tiles(a.count) == 1;
  if (!a.catalog.is_bounded()) {
    const int64_t groups = ceil_divide(a.count, (narrow ? 1 : 2) * kTileRows);
    for_each_evenly(a.parts, groups, [&](int64_t g) { narrow ? score_targets<1>(a, g) : score_targets<2>(a, g); });
    return;
  }
  for_each_evenly(a.parts, a.count, [&](int64_t row) {
    const float* h = a.hidden + row * a.catalog.width;
    float scores[kTogether][1];
    a.table.is_bfloat16 ? float32_scores<bfloat16>(a.table, a.catalog.width, h, a.target + row, 1, scores)
                        : float32_scores<float>(a.table, a.catalog.width, h, a.target + row, 1, scores);
    a.state.scores[row] = scores[0][0];
  });
}

}  // namespace

namespace REAREC_ENGINE {

int64_t count_rivals(const TileRank& a) {
  pack_rows(a.rows, a.hidden, a.count, a.catalog);
  score_targets(a);
  const int64_t padded = round_up(a.count, kBlock);
  for (int64_t row = 0; row < padded; ++row) {
    const bool is_row = row < a.count, searched = is_row && a.rows.is_bounded[row];
    if (is_row) {
      a.is_proven[row] = searched;
      a.target_score[row] = a.bonus ? a.state.scores[row] + a.bonus[row] : a.state.scores[row];
    }
    for (int part = 0; part < a.parts; ++part) {
      const RankRow state = row_of(a, part, row);
      *state.threshold = searched ? a.target_score[row] : __builtin_nanf("");  // nothing compares with NaN
      *state.half_counts = *state.products = *state.next = 0;
    }
  }
  const int64_t blocks = ceil_divide(a.catalog.items, kBlockItems);
  for_each_task(a.parts, a.parts, [&](int64_t part) {
    const int64_t begin = blocks * part / a.parts, end = blocks * (part + 1) / a.parts;
    column_tiles(a.count) == 1 ? count_part<1>(a, part, begin, end) : count_part<2>(a, part, begin, end);
  });
  int64_t products = 0;
  for (int64_t row = 0; row < a.count; ++row) {
    a.half_counts[row] = 0;
    for (int part = 0; part < a.parts; ++part) {
      const RankRow state = row_of(a, part, row);
      if (*state.products < 0) return -1;
      a.half_counts[row] += *state.half_counts;
      products += *state.products;
    }
  }
  return products;
}

}  // namespace REAREC_ENGINE
}  // namespace rearec::tiles
