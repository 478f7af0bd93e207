#include "cpu/tiles/item_tiles.h"

#include "cpu/tiles/tiles.h"
#include "cpu/parallel.h"

namespace rearec::tiles {
namespace {

constexpr double kLargestNorm = 1ull << 60;  // no product or sum of vectors up to this length overflows float32
constexpr double kUnseen = 0x1p-110;              // denormals, in a process that takes them for zeros

// 16 values, or as many as there are and zeros.
template <class T>
REAREC_INLINE __m512 load_up_to(const T* p, int64_t count) {
  return (__m512)(count >= kLanes ? load(p) : load_first(p, count < 0 ? 0 : count));
}

struct Doubles {
  __m512d low, high;
};
REAREC_INLINE Doubles widen(__m512 x) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
}
REAREC_INLINE Doubles minus(Doubles a, Doubles b) {
  return {_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)};
}
REAREC_INLINE __m512d add_products(__m512d sum, Doubles a, Doubles b) {
  return _mm512_fmadd_pd(a.high, b.high, _mm512_fmadd_pd(a.low, b.low, sum));
}

// To nearest even. Products take denormals for zeros: with `flush` they are zeros already, so that residuals know.
REAREC_INLINE __m256i to_bfloat16(__m512 x, bool flush) {
  bfloat16 rounded[16];
  store(rounded, (vfloat)x);
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rounded));
  if (!flush) return bits;
  const __mmask16 normal = _mm256_test_epi16_mask(bits, _mm256_set1_epi16(0x7f80));
  return _mm256_maskz_mov_epi16(normal, bits);
}
REAREC_INLINE __m512 from_bfloat16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
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

REAREC_INLINE double norm(__m512d squares) { return __builtin_sqrt(_mm512_reduce_add_pd(squares)); }

// One item of a block, and its bounds. `to` is its line in the block's first tile; tiles of a depth come in pairs.
template <class T>
REAREC_INLINE void pack_item(const T* item, int64_t width, const float* center, bfloat16* to, float* bound) {
  __m512d length = _mm512_setzero_pd(), residual = _mm512_setzero_pd();
  const int64_t depth = ceil_divide(width, kTileDepth);
  for (int64_t n = 0; n < depth * kTileDepth; n += 16) {
    const __m512 e = load_up_to(item + n, width - n);
    const __m512 middle = center ? load_up_to(center + n, width - n) : _mm512_setzero_ps();
    const __m512 x = center ? _mm512_sub_ps(e, middle) : e;
    const __m256i rounded = to_bfloat16(x, bound != nullptr);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + n / kTileDepth * 2 * kTileValues + n % kTileDepth), rounded);
    if (bound) {
      const Doubles c = minus(widen(e), widen(middle));
      const Doubles rest = minus(c, widen(from_bfloat16(rounded)));
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
void pack_block(const ItemTiles& to, const Matrix& from, int64_t block) {
  const int64_t values = ceil_divide(to.width, kTileDepth) * 2 * kTileValues;
  bfloat16* tiles = static_cast<bfloat16*>(const_cast<void*>(to.tiles)) + block * values;
  float* bounds = to.bounds ? const_cast<float*>(to.bounds) + block * 2 * kBlockItems : nullptr;
  const int64_t first = block * kBlockItems;
  if (first + kBlockItems > to.items) {
    std::memset(tiles, 0, values * sizeof(bfloat16));
    if (bounds) std::memset(bounds, 0, 2 * kBlockItems * sizeof(float));
  }
  for (int64_t i = 0; i < kBlockItems && first + i < to.items; ++i)
    pack_item(static_cast<const T*>(from.values) + (first + i) * from.row_stride, to.width, to.center,
              tiles + i / kTileRows * kTileValues + i % kTileRows * kTileDepth, bounds ? bounds + i : nullptr);
}

}  // namespace

namespace REAREC_ENGINE {

void pack_items(const PackItems& a) {
  for_each_evenly(a.threads, ceil_divide(a.to.items, kBlockItems), [&](int64_t block) {
    a.from.is_bfloat16 ? pack_block<bfloat16>(a.to, a.from, block) : pack_block<float>(a.to, a.from, block);
  });
}

void pack_rows(const RowTiles& to, const float* hidden, int64_t rows, const ItemTiles& items) {
  const int64_t width = items.width, depth = ceil_divide(width, kTileDepth);
  const int64_t padded = round_up(rows, kBlock);
  const bool bounded = items.bounds != nullptr;
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
    uint32_t* pairs = static_cast<uint32_t*>(to.tiles) + row / kTileRows * depth * (kTileValues / 2) + row % kTileRows;
    __m512d length = _mm512_setzero_pd(), rounded_length = length, residual = length, offset = length;
    for (int64_t n = 0; n < width; n += 16) {
      const __m512 x = load_up_to(h + n, width - n);
      const __m256i rounded = to_bfloat16(x, bounded);
      uint32_t two[8];
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(two), rounded);
      for (int p = 0; p < 8; ++p) pairs[(n / 2 + p) * kTileRows] = two[p];
      if (bounded) {
        const Doubles exact = widen(x), near = widen(from_bfloat16(rounded)), rest = minus(exact, near);
        length = add_products(length, exact, exact);
        rounded_length = add_products(rounded_length, near, near);
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
    to.offset()[row] = static_cast<float>(_mm512_reduce_add_pd(offset));
  }
}

}  // namespace REAREC_ENGINE

}  // namespace rearec::tiles
