#include "cpu/tiles/item_tiles.h"

#include "cpu/tiles/tiles.h"
#include "cpu/parallel.h"

namespace rearec::tiles {
namespace {

constexpr double kLargestNorm = 1ull << 60;  // no product or sum of vectors up to this length overflows float32
constexpr double kUnseen = 0x1p-110;              // denormals, in a process that takes them for zeros

typedef double vdouble __attribute__((vector_size(4 * kLanes)));
struct Doubles {
  vdouble low, high;
};

// kLanes values, or as many as there are and zeros.
template <class T>
REAREC_INLINE vfloat load_up_to(const T* p, int64_t count) {
  return count >= kLanes ? load(p) : load_first(p, count < 0 ? 0 : count);
}
REAREC_INLINE Doubles widen(vfloat x) {
  typedef float Half __attribute__((vector_size(2 * kLanes)));
  Half halves[2];
  std::memcpy(halves, &x, sizeof halves);
  return {__builtin_convertvector(halves[0], vdouble), __builtin_convertvector(halves[1], vdouble)};
}
REAREC_INLINE Doubles minus(Doubles a, Doubles b) { return {a.low - b.low, a.high - b.high}; }
REAREC_INLINE vdouble add_products(vdouble sum, Doubles a, Doubles b) { return sum + a.low * b.low + a.high * b.high; }
REAREC_INLINE double total(vdouble x) {
  double all = 0;
  for (int i = 0; i < kLanes / 2; ++i) all += x[i];
  return all;
}

// To nearest even. Products may take denormals for zeros: with `flush` they are zeros already, so that residuals know.
REAREC_INLINE void store_rounded(bfloat16* to, vfloat x, bool flush) {
  store(to, x);
  if (!flush) return;
  const vfloat near = load(to);
  const vint is_normal = (bits_of(near) & 0x7f800000) != 0;
  store(to, is_normal ? near : vfloat{});
}

// No less than x, which the sums of squares above it may have made too small by a few roundings.
REAREC_INLINE float rounded_up(double x) {
  const double enough = x * (1 + 0x1p-20);
  const float f = static_cast<float>(enough);
  if (f >= enough) return f;
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  ++bits;
  float next;
  std::memcpy(&next, &bits, 4);
  return next;
}

REAREC_INLINE double norm(vdouble squares) { return __builtin_sqrt(total(squares)); }

// One item of a block, and its bounds. `to` is its line in the block's first tile; tiles of a depth come in pairs.
template <class T>
REAREC_INLINE void pack_item(const T* item, int64_t width, const float* center, bfloat16* to, float* bound) {
  vdouble length{}, residual{};
  const int64_t depth = ceil_divide(width, kTileDepth);
  for (int64_t n = 0; n < depth * kTileDepth; n += kLanes) {
    const vfloat e = load_up_to(item + n, width - n), middle = center ? load_up_to(center + n, width - n) : vfloat{};
    bfloat16* const place = to + n / kTileDepth * 2 * kTileValues + n % kTileDepth;
    store_rounded(place, e - middle, bound != nullptr);
    if (bound) {
      const Doubles c = minus(widen(e), widen(middle)), rest = minus(c, widen(load(place)));
      length = add_products(length, c, c);
      residual = add_products(residual, rest, rest);
    }
  }
  if (!bound) return;
  bound[0] = rounded_up(norm(length) + kUnseen);
  bound[kBlockItems] = rounded_up(norm(residual) + kUnseen);
  if (norm(length) <= kLargestNorm) return;
  bound[0] = kInfinity;  // NaN comes here as well
  bound[kBlockItems] = 0;
  for (int64_t t = 0; t < depth; ++t) std::memset(to + t * 2 * kTileValues, 0, kTileDepth * sizeof(bfloat16));
}

template <class T>
void pack_block(const PackItems& a, int64_t block) {
  const ItemTiles& to = a.to;
  const int64_t values = ceil_divide(to.width, kTileDepth) * 2 * kTileValues;
  bfloat16* tiles = static_cast<bfloat16*>(const_cast<void*>(to.tiles)) + block * values;
  float* bounds = to.bounds ? const_cast<float*>(to.bounds) + block * 2 * kBlockItems : nullptr;
  const int64_t first = block * kBlockItems;
  if (first + kBlockItems > to.items) {
    std::memset(tiles, 0, values * sizeof(bfloat16));
    if (bounds) std::memset(bounds, 0, 2 * kBlockItems * sizeof(float));
  }
  for (int64_t i = 0; i < kBlockItems && first + i < to.items; ++i) {
    const int64_t row = a.chosen ? a.chosen[first + i] : first + i;
    pack_item(static_cast<const T*>(a.from.values) + row * a.from.row_stride, to.width, to.center,
              tiles + i / kTileRows * kTileValues + i % kTileRows * kTileDepth, bounds ? bounds + i : nullptr);
  }
}

void pack_block(const PackItems& a, int64_t block) {
  a.from.is_bfloat16 ? pack_block<bfloat16>(a, block) : pack_block<float>(a, block);
}

}  // namespace

namespace REAREC_ENGINE {

void pack_items(const PackItems& a) {
  for_each_evenly(a.threads, ceil_divide(a.to.items, kBlockItems), [&](int64_t block) { pack_block(a, block); });
}

void pack_items_here(const PackItems& a) {
  for (int64_t block = 0; block < ceil_divide(a.to.items, kBlockItems); ++block) pack_block(a, block);
}

void pack_rows(const RowTiles& to, const float* hidden, int64_t rows, const ItemTiles& items) {
  const int64_t width = items.width, depth = ceil_divide(width, kTileDepth);
  const int64_t padded = round_up(rows, kBlock), strip = column_tiles(rows);
  const bool bounded = items.is_bounded();
  std::memset(to.tiles, 0, padded * depth * kTileDepth * sizeof(bfloat16));
  float* const bounds[] = {to.of_norm(), to.of_residual(), to.constant(), to.offset()};
  for (float* x : bounds) std::memset(x, 0, padded * sizeof(float));
  // Sums of d products of float32, in any order and with whatever rounding the tiles use; and what underflows in them.
  const double unit = (depth * kTileDepth + 32) * 0x1p-23, least = (depth * kTileDepth + 32) * 0x1p-123;
  double center_length = 0;
  if (bounded)
    for (int64_t n = 0; n < width; ++n) center_length += double{items.center[n]} * items.center[n];
  center_length = __builtin_sqrt(center_length);
  for (int64_t row = 0; row < rows; ++row) {
    const float* h = hidden + row * width;
    constexpr int64_t kTilePairs = kTileValues / 2;
    uint32_t* pairs = static_cast<uint32_t*>(to.tiles) + row / (strip * kTileRows) * strip * depth * kTilePairs +
                      row / kTileRows % strip * kTilePairs + row % kTileRows;
    vdouble length{}, rounded_length{}, residual{}, offset{};
    for (int64_t n = 0; n < width; n += kLanes) {
      const vfloat x = load_up_to(h + n, width - n);
      bfloat16 near[kLanes];
      store_rounded(near, x, bounded);
      uint32_t two[kLanes / 2];
      std::memcpy(two, near, sizeof two);
      uint32_t* const place = pairs + n / kTileDepth * strip * kTilePairs + n % kTileDepth / 2 * kTileRows;
      for (int p = 0; p < kLanes / 2; ++p) place[p * kTileRows] = two[p];
      if (bounded) {
        const Doubles exact = widen(x), rounded = widen(load(near)), rest = minus(exact, rounded);
        length = add_products(length, exact, exact);
        rounded_length = add_products(rounded_length, rounded, rounded);
        residual = add_products(residual, rest, rest);
        offset = add_products(offset, exact, widen(load_up_to(items.center + n, width - n)));
      }
    }
    to.is_bounded[row] = !bounded || norm(length) <= kLargestNorm;
    if (!bounded || !to.is_bounded[row]) continue;
    // At least a little of each, so that an infinite |c| makes the slack infinite.
    to.of_norm()[row] = rounded_up(norm(residual) + unit * (norm(length) + norm(rounded_length)) + 0x1p-100);
    to.of_residual()[row] = rounded_up(norm(rounded_length) * (1 + unit) + 0x1p-100);
    to.constant()[row] = rounded_up(4 * unit * norm(length) * center_length + least);
    to.offset()[row] = static_cast<float>(total(offset));
  }
}

}  // namespace REAREC_ENGINE

}  // namespace rearec::tiles
