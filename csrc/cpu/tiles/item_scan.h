// One pass of some rows over the tiles of a catalog, and what is known of a score from its product of bfloat16. What
// becomes of the scores is the visitor's (topk.cpp, rank.cpp).
#pragma once
#include "cpu/best_items.h"
#include "cpu/scratch.h"
#include "cpu/tiles/item_tiles.h"
#include "cpu/tiles/strips.h"

namespace rearec::tiles {

namespace REAREC_ENGINE {
void pack_items(const PackItems& a);  // these in item_tiles.cpp
void pack_items_here(const PackItems& a);  // in the calling thread
void pack_rows(const RowTiles& to, const float* hidden, int64_t rows, const ItemTiles& items);
}  // namespace REAREC_ENGINE

namespace {

constexpr int64_t kPanelBytes = 128 << 10;  // of tiles that all rows read before the next, with room in the cache
constexpr int64_t kPanelBlocks = 16;
constexpr int kTogether = 4;  // float32 scores computed at a time

// --- What is known of a score

// Of a block of items: null where products of bfloat16 are the scores.
struct Bounds {
  const float* norm;      // [32]
  const float* residual;  // [32]
  float largest_norm, largest_residual;
};

// How far scores may be from the products of the rounded vectors. None of its operations decreases with an operand.
REAREC_INLINE vfloat slack(vfloat of_norm, vfloat norm, vfloat of_residual, vfloat residual, vfloat constant) {
  return of_residual * residual + (of_norm * norm + constant);
}

// Makes a number of products negative, and those added to it leave it so.
constexpr int64_t kOtherTable = INT64_MIN / 2;

// Whether a float32 score is where the interval of its item says, as it is if the table is what the tiles were made of.
bool is_within(float score, float lower, float upper) {
  return (score >= lower && score <= upper) || !(upper - lower < kInfinity);  // an interval may have no end
}

// The float32 scores of `count` items, up to kTogether and at least one; the others' places hold anything.
template <class T>
REAREC_INLINE void float32_scores(const Matrix& table, int64_t width, const float* h, const int64_t* items, int64_t count,
                                  float (&scores)[kTogether][1]) {
  const T* vectors[kTogether];
  for (int64_t i = 0; i < kTogether; ++i)
    vectors[i] = static_cast<const T*>(table.values) + items[i < count ? i : 0] * table.row_stride;
  few_scores<T, 1, kTogether>(h, width, vectors, 0, scores);
}

// --- The pass

REAREC_INLINE float largest_of_block(const float* x) {
  vfloat m = load(x);
  for (int i = kLanes; i < kBlock; i += kLanes) m = larger(load(x + i), m);
  return max(m);
}

// Room for the tiles of a panel and their bounds, for catalogs that are packed as they are read.
class PanelScratch {
 public:
  PanelScratch(const ItemTiles& catalog, int64_t blocks, int64_t block_values)
      : needed_(!catalog.tiles), bounded_(catalog.is_bounded()), tile_floats_(blocks * block_values / 2),
        memory_(needed_ ? tile_floats_ + blocks * 2 * kBlockItems + 16 : 0) {}

  // The blocks [from, from + count) of a catalog, whose items are `table`.
  ItemTiles pack(const ItemTiles& catalog, const Matrix& table, int64_t from, int64_t count) const {
    if (!needed_) return catalog;
    const uintptr_t aligned = (reinterpret_cast<uintptr_t>(memory_.data) + 63) / 64 * 64;
    float* const tiles = reinterpret_cast<float*>(aligned);
    const int64_t first = from * kBlockItems, left = catalog.items - first, most = count * kBlockItems;
    const int64_t size = table.is_bfloat16 ? sizeof(bfloat16) : sizeof(float);
    const ItemTiles to = {tiles, bounded_ ? tiles + tile_floats_ : nullptr, catalog.center, left < most ? left : most,
                          catalog.width};
    const char* const values = static_cast<const char*>(table.values) + first * table.row_stride * size;
    REAREC_ENGINE::pack_items_here({to, {values, table.is_bfloat16, table.row_stride}, 1, nullptr});
    return to;
  }

 private:
  const bool needed_, bounded_;
  const int64_t tile_floats_;
  const Scratch memory_;
};

// The blocks [begin, end) against `count` rows, 16 * kTiles of them at a time. For a panel of blocks and a group of rows
// it calls
//
//   visitor.begin(row, first_item, end_item)    row: the group's first; end_item may be beyond the last item
//   visitor.block(row, first_item, sums, bounds)    for every block; sums as sum_index<kTiles> says, to be written to
//   visitor.end(row)
//
// so that a row meets the items of [begin, end) in ascending order.
template <int kTiles, class Visitor>
void scan(const ItemTiles& catalog, const Matrix& table, const RowTiles& row_tiles, int64_t count, int64_t begin,
          int64_t end, Visitor& visitor) {
  [[maybe_unused]] const Tiles tiles_in_use;
  const int64_t depth = ceil_divide(catalog.width, kTileDepth);
  const int64_t block_values = 2 * depth * kTileValues, block_bytes = block_values * sizeof(bfloat16);
  const int64_t fitting = kPanelBytes / block_bytes;
  const int64_t panel = fitting < 1 ? 1 : fitting > kPanelBlocks ? kPanelBlocks : fitting;
  const int64_t groups = ceil_divide(count, kTiles * kTileRows);
  const bfloat16* rows = static_cast<const bfloat16*>(row_tiles.tiles);
  const PanelScratch scratch(catalog, panel, block_values);
  alignas(64) float sums[kBlock * kBlock];
  for (int64_t from = begin; from < end; from += panel) {
    const int64_t blocks = end - from < panel ? end - from : panel;
    const ItemTiles packed = scratch.pack(catalog, table, from, blocks);
    const int64_t place = catalog.tiles ? from : 0;  // of the panel in what is packed
    const bfloat16* const tiles = static_cast<const bfloat16*>(packed.tiles) + place * block_values;
    Bounds bounds[kPanelBlocks] = {};
    if (packed.is_bounded())
      for (int64_t i = 0; i < blocks; ++i) {
        const float* norm = packed.bounds + (place + i) * 2 * kBlockItems;
        bounds[i] = {norm, norm + kBlockItems, largest_of_block(norm), largest_of_block(norm + kBlockItems)};
      }
    for (int64_t group = 0; group < groups; ++group) {
      const bfloat16* of_group = rows + group * kTiles * depth * kTileValues;
      const int64_t row = group * kTiles * kTileRows;
      visitor.begin(row, from * kBlockItems, (from + blocks) * kBlockItems);
      for (int64_t i = 0; i < blocks; ++i) {
        const bfloat16* block = tiles + i * block_values;
        // This group's share of the same block of the next panel.
        if (catalog.tiles && from + panel + i < end) {
          const char* next = reinterpret_cast<const char*>(block) + panel * block_bytes;
          const int64_t stop = block_bytes * (group + 1) / groups;
          for (int64_t byte = block_bytes * group / groups / 64 * 64; byte < stop; byte += 64)
            __builtin_prefetch(next + byte, 0, 2);
        }
        multiply_strips<1, false, kTiles>(block, of_group, depth, sums);
        visitor.block(row, (from + i) * kBlockItems, sums, bounds[i]);
      }
      visitor.end(row);
    }
  }
}

}  // namespace
}  // namespace rearec::tiles
